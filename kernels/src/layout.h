// Where the numbers of a panel lie.
//
//   float32        [K][32]
//   bfloat16       [K/2][32][2]: the two of a pair fill one 32-bit lane
//   int8           per block of 32 inputs: [8][32][4] bytes of value + 128, then 32 float16 scales
//   int8_channel   the same without the scales of blocks; 32 float32 scales end the panel
//   int4           per block: [4][32][4] bytes, low half input 4g + i, high half input 16 + 4g + i, each
//                  value + 8; then 32 float16 scales
//
// All functions are static: this file is compiled for several instruction sets.
//
// Scales stand behind the numbers they belong to, so that a product reads one stream: two to eight
// far-apart streams were slower than one by a third (Zen 4).
#pragma once
#include "kernels.h"

namespace kg {

struct Unit {
  int64_t inputs; // that one unit holds, of each of the 32 outputs
  int64_t bytes;
  int64_t tail;  // bytes after the panel's last unit
  int64_t chunk; // units that stay in half of a 32 KB first-level cache while groups of rows pass over
};

static inline Unit unit_of(int kind) {
  switch (kind) {
  case FLOAT32: return {1, 4 * PANEL, 0, 128};
  case BFLOAT16: return {2, 4 * PANEL, 0, 128};
  case INT8: return {BLOCK, BLOCK * PANEL + 2 * PANEL, 0, 16};
  case INT8_CHANNEL: return {BLOCK, BLOCK * PANEL, 4 * PANEL, 16};
  default: return {BLOCK, BLOCK / 2 * PANEL + 2 * PANEL, 0, 28};
  }
}

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t units_of(int kind, int64_t inputs) { return ceil_div(inputs, unit_of(kind).inputs); }
static inline int64_t panels_of(int64_t outputs) { return ceil_div(outputs, PANEL); }
static inline int64_t panel_bytes(int kind, int64_t inputs) {
  Unit unit = unit_of(kind);
  return units_of(kind, inputs) * unit.bytes + unit.tail;
}

static inline bool in_panels(int64_t kind) { return kind < KINDS; }
static inline int64_t packed_bytes(int kind, int64_t outputs, int64_t inputs) {
  if (!in_panels(kind)) return outputs * inputs * (kind == FLOAT32_ROWS ? 4 : 2);
  return panels_of(outputs) * panel_bytes(kind, inputs);
}

// A weight matrix [outputs, inputs], in panels or as rows.
struct Packed {
  const uint8_t *data;
  int64_t kind, outputs, inputs;
};

} // namespace kg
