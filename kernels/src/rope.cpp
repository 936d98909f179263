// Rotary angles, remembered: all layers of a step ask for the same ones, and 128 pairs of sines and
// cosines take 3 us where a whole layer takes some 300.
#include "block.h"
#include <cmath>
#include <vector>

namespace kg {
namespace {

struct Speeds {
  float base, scaling;
  int64_t head_dim;
  std::vector<float> of_pair;

  bool is(int64_t h, float b, float s) const { return h == head_dim && b == base && s == scaling; }
};

struct Angles {
  size_t speeds;
  int32_t index;
  std::vector<float> numbers;
};

// As many as eight rows with two bases each.
constexpr size_t KEPT = 16;

size_t speeds_of(std::vector<Speeds> &known, int64_t head_dim, float base, float scaling) {
  for (size_t i = 0; i < known.size(); i++)
    if (known[i].is(head_dim, base, scaling)) return i;
  Speeds made = {base, scaling, head_dim, {}};
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i++)
    made.of_pair.push_back((float)(std::pow((double)base, -((double)i / (double)half)) / scaling));
  known.push_back(std::move(made));
  return known.size() - 1;
}

} // namespace

const float *rope_angles(int32_t index, int64_t head_dim, float base, float scaling) {
  static thread_local std::vector<Speeds> known;
  static thread_local std::vector<Angles> kept;
  static thread_local size_t oldest = 0;
  const size_t speeds = speeds_of(known, head_dim, base, scaling);
  for (const Angles &a : kept)
    if (a.speeds == speeds && a.index == index) return a.numbers.data();

  Angles made = {speeds, index, std::vector<float>((size_t)head_dim)};
  const size_t half = (size_t)head_dim / 2;
  for (size_t i = 0; i < half; i++) { // in float32, as the model's layer does
    const float angle = (float)index * known[speeds].of_pair[i];
    made.numbers[i] = std::cos(angle);
    made.numbers[half + i] = std::sin(angle);
  }
  if (kept.size() < KEPT) {
    kept.push_back(std::move(made));
    return kept.back().numbers.data();
  }
  oldest = (oldest + 1) % KEPT;
  kept[oldest] = std::move(made);
  return kept[oldest].numbers.data();
}

} // namespace kg
