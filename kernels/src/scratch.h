// Memory that a step needs for its own: one buffer per use and thread, grown and never given back.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>

namespace kg {

enum class Use {
  x,
  q,
  scale,
  sum,
  queries,
  rope,
  normed,
  hidden,
  middle,
  product,
  scores,
  slots,
  arranged,
  widened,
  edge,
  real,
  together,
  unpadded,
  USES
};

class Buffer {
public:
  void *at_least(size_t bytes) {
    if (bytes > size_) {
      free();
      size_ = 0;
      data_ = ::operator new(bytes + bytes / 2, std::align_val_t(64));
      size_ = bytes + bytes / 2;
    }
    return data_;
  }
  ~Buffer() { free(); }

private:
  void free() {
    if (data_) ::operator delete(data_, std::align_val_t(64));
    data_ = nullptr;
  }
  void *data_ = nullptr;
  size_t size_ = 0;
};

template <typename T> T *scratch(Use use, int64_t count) {
  static thread_local Buffer buffers[(int)Use::USES];
  return static_cast<T *>(buffers[(int)use].at_least((size_t)count * sizeof(T)));
}

} // namespace kg
