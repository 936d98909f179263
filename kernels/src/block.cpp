// Products with what stands around them in a decoder block.
#include "block.h"
#include "scratch.h"
#include <cstring>

namespace kg {
namespace {

constexpr int64_t GRAIN = 8; // rows; less is done before another thread has woken

void norm_rows(const float *norm, float epsilon, const float *x, int64_t rows, int64_t width, float *out,
               const Pool &pool) {
  const Kernels &k = kernels();
  parallel(pool, rows, GRAIN, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; m++) k.rms_norm(x + m * width, norm, epsilon, out + m * width, width);
  });
}

// x with zeros where a token is padding, or x itself where none is.
const float *without_padding(const Tokens &tokens, const float *x, int64_t width) {
  const int64_t rows = tokens.batch * tokens.tokens;
  float *made = nullptr;
  for (int64_t m = 0; m < rows; m++) {
    if (tokens.segment[m] > 0) continue;
    if (!made) {
      made = scratch<float>(Use::unpadded, rows * width);
      memcpy(made, x, (size_t)(rows * width) * sizeof(float));
    }
    memset(made + m * width, 0, (size_t)width * sizeof(float));
  }
  return made ? made : x;
}

} // namespace

void norm_product(const Packed &w, const float *norm, float epsilon, float cap, const float *x, int64_t rows,
                  float *out, const Pool &pool) {
  float *normed = scratch<float>(Use::normed, rows * w.inputs);
  norm_rows(norm, epsilon, x, rows, w.inputs, normed, pool);
  product(w, normed, rows, out, pool);
  if (cap > 0)
    parallel(pool, rows * w.outputs, 16 * 1024, [&](int64_t begin, int64_t end) {
      kernels().soft_cap(out + begin, cap, end - begin);
    });
}

void add_product(const Packed &w, const float *norm, float epsilon, const float *x, const float *y, int64_t rows,
                 float *out, const Pool &pool) {
  float *made = scratch<float>(Use::product, rows * w.outputs);
  product(w, y, rows, made, pool);
  if (norm) {
    float *normed = scratch<float>(Use::normed, rows * w.outputs);
    norm_rows(norm, epsilon, made, rows, w.outputs, normed, pool);
    made = normed;
  }
  for (int64_t i = 0; i < rows * w.outputs; i++) out[i] = x[i] + made[i];
}

void feed_forward(const Block &block, float epsilon, const float *x, int64_t rows, float *out,
                  const Pool &pool) {
  const Kernels &k = kernels();
  const int64_t F = block.down.inputs;
  float *branches = scratch<float>(Use::hidden, rows * 3 * F), *active = branches + rows * 2 * F;
  norm_product(block.gate_up, block.pre_ffw_norm, epsilon, 0.f, x, rows, branches, pool);
  parallel(pool, rows, GRAIN, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; m++)
      k.geglu(branches + m * 2 * F, branches + (2 * m + 1) * F, active + m * F, F);
  });
  add_product(block.down, block.post_ffw_norm, epsilon, x, active, rows, out, pool);
}

void decoder_block(const Block &block, const Rules &rules, const Tokens &tokens, const float *x,
                   const Cache &cache, float *out, const Pool &pool) {
  const int64_t rows = tokens.batch * tokens.tokens, attended = block.output.inputs;
  float *qkv = scratch<float>(Use::hidden, rows * (block.qkv.outputs + attended));
  float *y = qkv + rows * block.qkv.outputs;
  x = without_padding(tokens, x, block.qkv.inputs);
  norm_product(block.qkv, block.pre_attention_norm, rules.epsilon, 0.f, x, rows, qkv, pool);
  attend(rules, block.query_norm, block.key_norm, tokens, qkv, cache, y, pool);
  float *middle = scratch<float>(Use::middle, rows * block.output.outputs);
  add_product(block.output, block.post_attention_norm, rules.epsilon, x, y, rows, middle, pool);
  feed_forward(block, rules.epsilon, middle, rows, out, pool);
}

} // namespace kg
