// Products of few rows, and of any number with integers, from products of one panel and a few rows.
#include "product.h"
#include "scratch.h"
#include <cstring>

namespace kg {
namespace {

// Rows that go over a matrix of integers together: their activations stay in the second-level cache.
constexpr int64_t TILE = 64;
// A piece of work worth handing to another thread, in bytes of weights: some 5 us of reading.
constexpr int64_t GRAIN = 128 * 1024;

Rows prepare(const Kernels &k, const Packed &w, const float *x, int64_t count) {
  Rows rows = {};
  const int64_t inputs = w.inputs;
  rows.x = x;
  rows.width = inputs;
  if (w.kind == BFLOAT16 && inputs % 2) { // the last pair wants a second input
    float *padded = scratch<float>(Use::x, count * (inputs + 1));
    for (int64_t m = 0; m < count; m++) {
      memcpy(padded + m * (inputs + 1), x + m * inputs, (size_t)inputs * sizeof(float));
      padded[m * (inputs + 1) + inputs] = 0.f;
    }
    rows.x = padded;
    rows.width = inputs + 1;
  }
  if (w.kind >= INT8) {
    rows.blocks = ceil_div(inputs, BLOCK);
    int8_t *q = scratch<int8_t>(Use::q, count * rows.blocks * BLOCK);
    float *scale = scratch<float>(Use::scale, count * rows.blocks);
    int32_t *sum = scratch<int32_t>(Use::sum, count * rows.blocks);
    for (int64_t m = 0; m < count; m++)
      k.quantize(x + m * inputs, inputs, q + m * rows.blocks * BLOCK, scale + m * rows.blocks,
                 sum + m * rows.blocks);
    rows.q = q;
    rows.scale = scale;
    rows.sum = sum;
  }
  return rows;
}

// One panel for all rows. Where they need several passes, a piece of the panel that fits the first-level
// cache is passed over by all before the next is fetched: weights come from memory once.
void one_panel(const Kernels &k, const Packed &w, const Rows &rows, int64_t count, const uint8_t *panel,
               float *out, int64_t stride) {
  const Unit unit = unit_of((int)w.kind);
  const int64_t units = units_of((int)w.kind, w.inputs), groups = ceil_div(count, k.group[w.kind]);
  const int64_t step = groups == 1 ? units : unit.chunk;
  for (int64_t u = 0; u < units; u += step) {
    const int64_t until = u + step < units ? u + step : units;
    for (int64_t g = 0; g < groups; g++) {
      const int64_t row = count * g / groups, size = count * (g + 1) / groups - row;
      k.product[w.kind][size](rows, row, u, until, panel + u * unit.bytes, out + row * stride, stride, u == 0);
    }
  }
  if (w.kind == INT8_CHANNEL) {
    float scales[PANEL];
    memcpy(scales, panel + units * unit.bytes, sizeof scales);
    for (int64_t m = 0; m < count; m++)
      for (int j = 0; j < PANEL; j++) out[m * stride + j] *= scales[j];
  }
}

// Outputs that one group of rows goes over before the next one does: either side stays in a near cache.
constexpr int64_t OUTPUTS = 16;

// A matrix as it lies in a variable: an output's weights are a row.
void product_of_rows(const Kernels &k, const Packed &w, const float *x, int64_t count, float *out,
                     const Pool &pool) {
  const int half = w.kind == BFLOAT16_ROWS;
  const int64_t bytes = w.inputs * (half ? 2 : 4), groups = ceil_div(count, k.dots_group);
  parallel(pool, w.outputs, ceil_div(GRAIN, bytes * groups), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n += OUTPUTS)
      for (int64_t g = 0; g < groups; g++) {
        const int64_t row = count * g / groups, size = count * (g + 1) / groups - row;
        const int64_t outputs = end - n < OUTPUTS ? end - n : OUTPUTS;
        k.dots[half][size](x + row * w.inputs, w.inputs, w.data + n * bytes, outputs,
                           out + row * w.outputs + n, w.outputs);
      }
  });
}

void product_of_few(const Packed &w, const float *x, int64_t rows_in_all, float *out, const Pool &pool) {
  const Kernels &k = kernels();
  const int64_t bytes = panel_bytes((int)w.kind, w.inputs), outputs = w.outputs;
  for (int64_t from = 0; from < rows_in_all; from += TILE) {
    const int64_t count = rows_in_all - from < TILE ? rows_in_all - from : TILE;
    const Rows rows = prepare(k, w, x + from * w.inputs, count);
    float *to = out + from * outputs;
    // Few bytes are much work where rows are many.
    const int64_t grain = ceil_div(GRAIN, bytes * ceil_div(count, ROWS_AT_ONCE));
    parallel(pool, panels_of(outputs), grain, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; p++) {
        const uint8_t *panel = w.data + p * bytes;
        const int64_t width = outputs - p * PANEL;
        if (width >= PANEL) {
          one_panel(k, w, rows, count, panel, to + p * PANEL, outputs);
          continue;
        }
        float whole[TILE * PANEL]; // the last panel has more outputs than the matrix
        one_panel(k, w, rows, count, panel, whole, PANEL);
        for (int64_t m = 0; m < count; m++)
          memcpy(to + m * outputs + p * PANEL, whole + m * PANEL, (size_t)width * sizeof(float));
      }
    });
  }
}

void product_of_all(const Packed &w, const float *x, int64_t rows, float *out, const Pool &pool) {
  if (!in_panels(w.kind)) return product_of_rows(kernels(), w, x, rows, out, pool);
  if (w.kind < INT8 && rows > ROWS_AT_ONCE) return product_of_many(w, x, rows, out, pool);
  product_of_few(w, x, rows, out, pool);
}

bool is_zero(const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (x[i] != 0.f) return false;
  return true;
}

} // namespace

void product(const Packed &w, const float *x, int64_t rows, float *out, const Pool &pool) {
  int64_t *real = scratch<int64_t>(Use::real, rows), count = 0;
  for (int64_t m = 0; m < rows; m++)
    if (!is_zero(x + m * w.inputs, w.inputs)) real[count++] = m;
  if (count == rows) return product_of_all(w, x, rows, out, pool);
  // They go together over the weights, and then to their places, the last one first.
  float *together = scratch<float>(Use::together, count * w.inputs);
  for (int64_t i = 0; i < count; i++)
    memcpy(together + i * w.inputs, x + real[i] * w.inputs, (size_t)w.inputs * sizeof(float));
  if (count > 0) product_of_all(w, together, count, out, pool);
  const size_t bytes = (size_t)w.outputs * sizeof(float);
  for (int64_t m = rows, i = count; m-- > 0;)
    if (i > 0 && real[i - 1] == m) {
      if (--i != m) memcpy(out + m * w.outputs, out + i * w.outputs, bytes);
    } else {
      memset(out + m * w.outputs, 0, bytes);
    }
}

} // namespace kg
