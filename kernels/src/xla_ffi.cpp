// The same steps as handlers for XLA, on XLA's own threads.
//
// Python opens this library with ctypes and hands the handlers to jax; no symbol of XLA is left undefined,
// so one build serves all releases of jax from the one its headers came with.
#include "c_api.h"
#include "xla/ffi/api/ffi.h"
#include <cstring>
#include <memory>

namespace ffi = xla::ffi;

namespace {

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using Any = ffi::AnyBuffer; // weights: bytes of panels, or a table of float32 or bfloat16
using Numbers = ffi::Span<const float>;
using Sizes = ffi::Span<const int64_t>;

// XLA's pool has measured faster than an own one that sleeps: 195 against 175 tokens a second in int4.
kg::Pool pool_of(ffi::ThreadPool &threads) {
  return {[](void *owner, int64_t tasks, kg::Body body, void *context) {
            auto &threads = *static_cast<ffi::ThreadPool *>(owner);
            auto job = std::make_shared<kg::Job>(tasks, body, context);
            const int64_t helpers = std::min(threads.num_threads(), tasks) - 1;
            for (int64_t i = 0; i < helpers; i++) threads.Schedule([job] { job->work(); });
            job->work();
            job->wait();
          },
          &threads, threads.num_threads()};
}

ffi::Error invalid(const char *what) { return ffi::Error(ffi::ErrorCode::kInvalidArgument, what); }

// Python has compared the shapes; a wrong one here would read beyond a buffer, so sizes are seen to again.
bool fits(const kg::Packed &w, const Any &data) {
  return (int64_t)data.size_bytes() == kg::packed_bytes((int)w.kind, w.outputs, w.inputs);
}

kg::Packed packed(const Any &data, int64_t kind, int64_t outputs, int64_t inputs) {
  return {static_cast<const uint8_t *>(data.untyped_data()), kind, outputs, inputs};
}

int64_t last(const F32 &x) { return x.dimensions().back(); }
int64_t rows(const F32 &x) { return (int64_t)x.element_count() / last(x); }
const float *maybe(const F32 &x) { return x.element_count() ? x.typed_data() : nullptr; }

kg::Rules rules_of(Sizes sizes, Numbers numbers) {
  return {sizes[0],   sizes[1],   sizes[2],   sizes[3],  numbers[0],
          numbers[1], numbers[2], numbers[3], numbers[4]};
}

// What XLA did not let us have in place is copied first.
template <typename Result, typename Argument> void *in_place(Result &result, Argument &argument) {
  if (result->untyped_data() != argument.untyped_data())
    memcpy(result->untyped_data(), argument.untyped_data(), argument.size_bytes());
  return result->untyped_data();
}

ffi::Error linear(ffi::ThreadPool threads, F32 x, Any w, ffi::Result<F32> y, int64_t kind) {
  const kg::Packed weights = packed(w, kind, last(*y), last(x));
  if (!fits(weights, w)) return invalid("the packed weights are of another shape");
  kg::product(weights, x.typed_data(), rows(x), y->typed_data(), pool_of(threads));
  return ffi::Error::Success();
}

ffi::Error look_up(S32 ids, Any w, ffi::Result<F32> y, int64_t kind, int64_t outputs) {
  const kg::Packed weights = packed(w, kind, outputs, last(*y));
  if (!fits(weights, w)) return invalid("the packed weights are of another shape");
  const int32_t *id = ids.typed_data();
  const int64_t count = (int64_t)ids.element_count();
  for (int64_t i = 0; i < count; i++)
    if (id[i] < 0 || id[i] >= outputs) return invalid("rows: an id is out of range");
  kg::unpack_rows(weights, id, count, y->typed_data());
  return ffi::Error::Success();
}

ffi::Error norm_linear(ffi::ThreadPool threads, F32 x, F32 norm, Any w, ffi::Result<F32> y, int64_t kind,
                       float epsilon, float cap) {
  const kg::Packed weights = packed(w, kind, last(*y), last(x));
  if (!fits(weights, w)) return invalid("the packed weights are of another shape");
  kg::norm_product(weights, norm.typed_data(), epsilon, cap, x.typed_data(), rows(x), y->typed_data(),
                   pool_of(threads));
  return ffi::Error::Success();
}

ffi::Error add_linear(ffi::ThreadPool threads, F32 x, F32 y, F32 norm, Any w, ffi::Result<F32> out,
                      int64_t kind, float epsilon) {
  const kg::Packed weights = packed(w, kind, last(x), last(y));
  if (!fits(weights, w)) return invalid("the packed weights are of another shape");
  kg::add_product(weights, maybe(norm), epsilon, x.typed_data(), y.typed_data(), rows(x), out->typed_data(),
                  pool_of(threads));
  return ffi::Error::Success();
}

ffi::Error feed_forward(ffi::ThreadPool threads, F32 x, F32 pre, F32 post, Any gate_up, Any down,
                        ffi::Result<F32> out, Sizes kinds, int64_t width, float epsilon) {
  kg::Block block = {};
  block.gate_up = packed(gate_up, kinds[0], 2 * width, last(x));
  block.down = packed(down, kinds[1], last(x), width);
  block.pre_ffw_norm = pre.typed_data();
  block.post_ffw_norm = maybe(post);
  if (!fits(block.gate_up, gate_up) || !fits(block.down, down))
    return invalid("the packed weights are of another shape");
  kg::feed_forward(block, epsilon, x.typed_data(), rows(x), out->typed_data(), pool_of(threads));
  return ffi::Error::Success();
}

struct CacheBuffers {
  Any keys, values;
  S32 index, segment, stored;
};

struct CacheResults {
  ffi::Result<Any> keys, values;
  ffi::Result<S32> index, segment, stored;
};

kg::Cache cache_of(CacheBuffers from, CacheResults to) {
  return {in_place(to.keys, from.keys),
          in_place(to.values, from.values),
          static_cast<int32_t *>(in_place(to.index, from.index)),
          static_cast<int32_t *>(in_place(to.segment, from.segment)),
          static_cast<int32_t *>(in_place(to.stored, from.stored)),
          from.keys.dimensions()[1],
          from.keys.element_type() == ffi::BF16};
}

ffi::Error attend(ffi::ThreadPool threads, F32 qkv, S32 index, S32 segment, F32 query_norm, F32 key_norm,
                  Any keys, Any values, S32 cache_index, S32 cache_segment, S32 stored, ffi::Result<F32> out,
                  ffi::Result<Any> keys_out, ffi::Result<Any> values_out, ffi::Result<S32> index_out,
                  ffi::Result<S32> segment_out, ffi::Result<S32> stored_out, Sizes sizes, Numbers numbers) {
  const kg::Cache cache = cache_of({keys, values, cache_index, cache_segment, stored},
                                   {keys_out, values_out, index_out, segment_out, stored_out});
  const kg::Tokens tokens = {index.dimensions()[0], index.dimensions()[1], index.typed_data(),
                             segment.typed_data()};
  kg::attend(rules_of(sizes, numbers), maybe(query_norm), maybe(key_norm), tokens, qkv.typed_data(), cache,
             out->typed_data(), pool_of(threads));
  return ffi::Error::Success();
}

ffi::Error decoder_block(ffi::ThreadPool threads, F32 x, S32 index, S32 segment, Any keys, Any values,
                         S32 cache_index, S32 cache_segment, S32 stored, Any qkv, Any output, Any gate_up,
                         Any down, F32 pre_attention, F32 query_norm, F32 key_norm, F32 post_attention,
                         F32 pre_ffw, F32 post_ffw, ffi::Result<F32> out, ffi::Result<Any> keys_out,
                         ffi::Result<Any> values_out, ffi::Result<S32> index_out,
                         ffi::Result<S32> segment_out, ffi::Result<S32> stored_out, Sizes kinds, int64_t width,
                         Sizes sizes, Numbers numbers) {
  const kg::Rules rules = rules_of(sizes, numbers);
  const int64_t D = last(x), heads = rules.query_heads * rules.head_dim;
  const kg::Block block = {
      packed(qkv, kinds[0], heads + 2 * rules.key_heads * rules.head_dim, D),
      packed(output, kinds[1], D, heads),
      packed(gate_up, kinds[2], 2 * width, D),
      packed(down, kinds[3], D, width),
      pre_attention.typed_data(),
      maybe(query_norm),
      maybe(key_norm),
      maybe(post_attention),
      pre_ffw.typed_data(),
      maybe(post_ffw)};
  if (!fits(block.qkv, qkv) || !fits(block.output, output) || !fits(block.gate_up, gate_up) ||
      !fits(block.down, down))
    return invalid("the packed weights are of another shape");
  const kg::Cache cache = cache_of({keys, values, cache_index, cache_segment, stored},
                                   {keys_out, values_out, index_out, segment_out, stored_out});
  const kg::Tokens tokens = {index.dimensions()[0], index.dimensions()[1], index.typed_data(),
                             segment.typed_data()};
  kg::decoder_block(block, rules, tokens, x.typed_data(), cache, out->typed_data(), pool_of(threads));
  return ffi::Error::Success();
}

} // namespace

#define KG_HANDLER(name, function, binding)                                                                  \
  KG_API XLA_FFI_Error *name(XLA_FFI_CallFrame *frame) {                                                     \
    static auto *handler = (binding).To(function).release();                                                 \
    return handler->Call(frame);                                                                             \
  }

KG_HANDLER(kg_xla_linear, linear,
           ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<F32>().Arg<Any>().Ret<F32>().Attr<int64_t>("kind"))

KG_HANDLER(kg_xla_rows, look_up,
           ffi::Ffi::Bind().Arg<S32>().Arg<Any>().Ret<F32>().Attr<int64_t>("kind").Attr<int64_t>("outputs"))

KG_HANDLER(kg_xla_norm_linear, norm_linear,
           ffi::Ffi::Bind()
               .Ctx<ffi::ThreadPool>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<Any>()
               .Ret<F32>()
               .Attr<int64_t>("kind")
               .Attr<float>("epsilon")
               .Attr<float>("cap"))

KG_HANDLER(kg_xla_add_linear, add_linear,
           ffi::Ffi::Bind()
               .Ctx<ffi::ThreadPool>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<Any>()
               .Ret<F32>()
               .Attr<int64_t>("kind")
               .Attr<float>("epsilon"))

KG_HANDLER(kg_xla_feed_forward, feed_forward,
           ffi::Ffi::Bind()
               .Ctx<ffi::ThreadPool>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<Any>()
               .Arg<Any>()
               .Ret<F32>()
               .Attr<Sizes>("kinds")
               .Attr<int64_t>("width")
               .Attr<float>("epsilon"))

KG_HANDLER(kg_xla_attend, attend,
           ffi::Ffi::Bind()
               .Ctx<ffi::ThreadPool>()
               .Arg<F32>()
               .Arg<S32>()
               .Arg<S32>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<Any>()
               .Arg<Any>()
               .Arg<S32>()
               .Arg<S32>()
               .Arg<S32>()
               .Ret<F32>()
               .Ret<Any>()
               .Ret<Any>()
               .Ret<S32>()
               .Ret<S32>()
               .Ret<S32>()
               .Attr<Sizes>("sizes")
               .Attr<Numbers>("numbers"))

KG_HANDLER(kg_xla_decoder_block, decoder_block,
           ffi::Ffi::Bind()
               .Ctx<ffi::ThreadPool>()
               .Arg<F32>()
               .Arg<S32>()
               .Arg<S32>()
               .Arg<Any>()
               .Arg<Any>()
               .Arg<S32>()
               .Arg<S32>()
               .Arg<S32>()
               .Arg<Any>()
               .Arg<Any>()
               .Arg<Any>()
               .Arg<Any>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<F32>()
               .Arg<F32>()
               .Ret<F32>()
               .Ret<Any>()
               .Ret<Any>()
               .Ret<S32>()
               .Ret<S32>()
               .Ret<S32>()
               .Attr<Sizes>("kinds")
               .Attr<int64_t>("width")
               .Attr<Sizes>("sizes")
               .Attr<Numbers>("numbers"))
