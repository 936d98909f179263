// A product of many rows with floats: a piece of a panel is widened to float32 once, and tiles of all rows pass
// over it.
//
// A tile does 12 or more multiply-adds for each number of weights it loads, so that it runs at the speed of
// arithmetic whichever cache the operands come from.
#include "product.h"
#include "scratch.h"
#include <cstring>

namespace kg {
namespace {

// Inputs of a piece: 48 KB of weights in the second-level cache, and 18 KB of a tile's activations in the first.
constexpr int64_t DEPTH = 384;
// Rows that are arranged together: with DEPTH of their inputs they fill some 3/4 of a cache of 1 MB.
constexpr int64_t MOST_ROWS = 512;
constexpr int64_t GRAIN = 500 * 1000; // multiply-adds worth another thread, some 10 us

// Rows [first, ...) of tile `t` of `count` rows.
int64_t first_row(int64_t rows, int64_t count, int64_t t) { return rows * t / count; }

// To [inputs][rows of the tile], so that a tile reads one stream.
void arrange(const float *x, int64_t rows, int64_t inputs, float *out) {
  for (int64_t k = 0; k < inputs; k++)
    for (int64_t m = 0; m < rows; m++) out[k * rows + m] = x[m * inputs + k];
}

// Inputs [k0, k0 + count) of a panel as float32 [inputs][32]; `room` is for those that are stored otherwise.
const float *piece(const Kernels &k, const Packed &w, int64_t panel, int64_t k0, int64_t count, float *room) {
  const int kind = (int)w.kind;
  const Unit unit = unit_of(kind);
  const uint8_t *from = w.data + panel * panel_bytes(kind, w.inputs) + k0 / unit.inputs * unit.bytes;
  if (kind == FLOAT32) return reinterpret_cast<const float *>(from);
  k.widen(from, ceil_div(count, unit.inputs), room);
  return room;
}

void one_block(const Kernels &k, const Packed &w, const float *x, int64_t rows, float *out, const Pool &pool) {
  const int64_t K = w.inputs, tiles = ceil_div(rows, k.tile_rows);
  float *arranged = scratch<float>(Use::arranged, rows * K);
  parallel(pool, tiles, 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t row = first_row(rows, tiles, t), size = first_row(rows, tiles, t + 1) - row;
      arrange(x + row * K, size, K, arranged + row * K);
    }
  });
  parallel(pool, panels_of(w.outputs), ceil_div(GRAIN, rows * K * PANEL), [&](int64_t begin, int64_t end) {
    float *room = scratch<float>(Use::widened, DEPTH * PANEL);
    for (int64_t p = begin; p < end; p++) {
      const int64_t width = w.outputs - p * PANEL;
      const bool whole = width >= PANEL; // the last panel has more outputs than the matrix
      float *to = whole ? out + p * PANEL : scratch<float>(Use::edge, rows * PANEL);
      const int64_t stride = whole ? w.outputs : PANEL;
      for (int64_t k0 = 0; k0 < K; k0 += DEPTH) {
        const int64_t count = K - k0 < DEPTH ? K - k0 : DEPTH;
        const float *weights = piece(k, w, p, k0, count, room);
        for (int64_t t = 0; t < tiles; t++) {
          const int64_t row = first_row(rows, tiles, t), size = first_row(rows, tiles, t + 1) - row;
          k.tile[size](arranged + row * K + k0 * size, count, weights, to + row * stride, stride, k0 == 0);
        }
      }
      for (int64_t m = 0; m < rows && !whole; m++)
        memcpy(out + m * w.outputs + p * PANEL, to + m * PANEL, (size_t)width * sizeof(float));
    }
  });
}

} // namespace

void product_of_many(const Packed &w, const float *x, int64_t rows, float *out, const Pool &pool) {
  const int64_t blocks = ceil_div(rows, MOST_ROWS);
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t from = rows * b / blocks, until = rows * (b + 1) / blocks;
    one_block(kernels(), w, x + from * w.inputs, until - from, out + from * w.outputs, pool);
  }
}

} // namespace kg
