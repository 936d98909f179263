// The products in plain C++: right everywhere, and what the others are tested against.
#include "layout.h"
#include "vector_ops.h"

namespace kg {
namespace {

void product_float32(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                     int64_t, bool first) {
  const float *x = rows.x + row * rows.width;
  float sums[PANEL];
  for (int j = 0; j < PANEL; j++) sums[j] = first ? 0.f : out[j];
  for (int64_t u = u0; u < u1; u++, panel += 4 * PANEL) {
    float w[PANEL];
    memcpy(w, panel, sizeof w);
    for (int j = 0; j < PANEL; j++) sums[j] += x[u] * w[j];
  }
  memcpy(out, sums, sizeof sums);
}

void product_bfloat16(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                      int64_t, bool first) {
  const float *x = rows.x + row * rows.width;
  float sums[PANEL];
  for (int j = 0; j < PANEL; j++) sums[j] = first ? 0.f : out[j];
  for (int64_t u = u0; u < u1; u++, panel += 4 * PANEL) {
    uint32_t pairs[PANEL];
    memcpy(pairs, panel, sizeof pairs);
    for (int j = 0; j < PANEL; j++) {
      sums[j] += x[2 * u] * bits_to_float(pairs[j] << 16);
      sums[j] += x[2 * u + 1] * bits_to_float(pairs[j] & 0xffff0000);
    }
  }
  memcpy(out, sums, sizeof sums);
}

template <int KIND>
void product_integer(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                     int64_t, bool first) {
  const int offset = KIND == INT4 ? 8 : 128, groups = KIND == INT4 ? 4 : 8;
  float sums[PANEL];
  for (int j = 0; j < PANEL; j++) sums[j] = first ? 0.f : out[j];
  for (int64_t u = u0; u < u1; u++, panel += unit_of(KIND).bytes) {
    const int8_t *q = rows.q + (row * rows.blocks + u) * BLOCK;
    const float scale = rows.scale[row * rows.blocks + u];
    const int32_t sum = rows.sum[row * rows.blocks + u];
    uint16_t halves[PANEL];
    if (KIND != INT8_CHANNEL) memcpy(halves, panel + groups * 4 * PANEL, sizeof halves);
    for (int j = 0; j < PANEL; j++) {
      int32_t dot = -offset * sum;
      for (int g = 0; g < groups; g++)
        for (int i = 0; i < 4; i++) {
          int w = panel[(g * PANEL + j) * 4 + i];
          if (KIND == INT4)
            dot += (w & 15) * q[4 * g + i] + (w >> 4) * q[16 + 4 * g + i];
          else
            dot += w * q[4 * g + i];
        }
      sums[j] += (float)dot * (KIND == INT8_CHANNEL ? scale : scale * float16_to_float(halves[j]));
    }
  }
  memcpy(out, sums, sizeof sums);
}

void tile(const float *x, int64_t inputs, const float *weights, float *out, int64_t, bool first) {
  float sums[PANEL];
  for (int j = 0; j < PANEL; j++) sums[j] = first ? 0.f : out[j];
  for (int64_t k = 0; k < inputs; k++, weights += PANEL)
    for (int j = 0; j < PANEL; j++) sums[j] += x[k] * weights[j];
  memcpy(out, sums, sizeof sums);
}

Kernels make() {
  Kernels k = {};
  k.name = "portable";
  const Product one[KINDS] = {product_float32, product_bfloat16, product_integer<INT8>,
                              product_integer<INT8_CHANNEL>, product_integer<INT4>};
  for (int kind = 0; kind < KINDS; kind++) {
    k.product[kind][1] = one[kind];
    k.group[kind] = 1;
  }
  k.tile[1] = tile;
  k.tile_rows = 1;
  k.dots[0][1] = one_row_of_dots<float>;
  k.dots[1][1] = one_row_of_dots<uint16_t>;
  k.dots_group = 1;
  set_vector_ops(k);
  return k;
}

} // namespace

const Kernels *portable_kernels() {
  static const Kernels kernels = make();
  return &kernels;
}

} // namespace kg
