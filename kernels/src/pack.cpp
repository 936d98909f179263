// Rows to panels, and single rows back.
#include "pack.h"
#include "half.h"
#include <cmath>
#include <cstring>

namespace kg {
namespace {

struct Origin {
  Source source;
  const void *weights;
  const float *scales;
  int64_t blocks, inputs, outputs;

  bool holds(int64_t n, int64_t k) const { return n < outputs && k < inputs; }
  float number(int64_t n, int64_t k) const {
    if (!holds(n, k)) return 0.f;
    if (source == FROM_BFLOAT16)
      return bfloat16_to_float(static_cast<const uint16_t *>(weights)[n * inputs + k]);
    return static_cast<const float *>(weights)[n * inputs + k];
  }
  int value(int64_t n, int64_t k) const {
    return holds(n, k) ? static_cast<const int8_t *>(weights)[n * inputs + k] : 0;
  }
  float scale(int64_t n, int64_t block) const {
    return n < outputs ? scales[n * blocks + (blocks == 1 ? 0 : block)] : 0.f;
  }
};

// The float16 that is not smaller, so that no value leaves the range.
float round_up(float scale) {
  uint16_t half = float_to_float16(scale);
  if (float16_to_float(half) < scale) half++;
  return float16_to_float(half);
}

// Numbers [k0, k1) of output n to values and their scale. The values are chosen for the scale as it is
// stored: its rounding to float16 then costs nothing.
float quantize(const Origin &from, int kind, int64_t n, int64_t k0, int64_t k1, int *values) {
  float largest = 0.f, number = 0.f;
  for (int64_t k = k0; k < k1; k++) {
    const float w = from.number(n, k);
    if (std::fabs(w) > largest) largest = std::fabs(w), number = w;
  }
  float scale;
  if (kind == INT4) // -8..7: the largest number sits at -8, whatever its sign
    scale = std::copysign(round_up(largest / 8.f), -number);
  else
    scale = kind == INT8 ? round_up(largest / 127.f) : largest / 127.f;
  const float inverse = scale != 0.f ? 1.f / scale : 0.f;
  const float low = kind == INT4 ? -8.f : -127.f, high = kind == INT4 ? 7.f : 127.f;
  for (int64_t k = k0; k < k1; k++) {
    const float v = std::nearbyint(from.number(n, k) * inverse);
    values[k - k0] = (int)(v < low ? low : v > high ? high : v);
  }
  return scale;
}

void put_block(int kind, uint8_t *block, int j, const int *values) {
  for (int i = 0; i < BLOCK; i++) {
    if (kind != INT4)
      block[(i / 4 * PANEL + j) * 4 + i % 4] = (uint8_t)(values[i] + 128);
    else if (i < 16)
      block[(i / 4 * PANEL + j) * 4 + i % 4] = (uint8_t)((values[i] + 8) | (values[i + 16] + 8) << 4);
  }
}

void pack_integers(const Origin &from, int kind, int64_t panel, uint8_t *out) {
  const Unit unit = unit_of(kind);
  const int64_t blocks = units_of(kind, from.inputs);
  const int64_t scales_at = unit.bytes - 2 * PANEL;
  for (int j = 0; j < PANEL; j++) {
    const int64_t n = panel * PANEL + j;
    float row_scale = 0.f;
    if (kind == INT8_CHANNEL) {
      if (from.source == FROM_QUANTIZED) {
        row_scale = from.scale(n, 0);
      } else {
        float largest = 0.f;
        for (int64_t k = 0; k < from.inputs; k++) largest = std::fmax(largest, std::fabs(from.number(n, k)));
        row_scale = largest / 127.f;
      }
      memcpy(out + blocks * unit.bytes + 4 * j, &row_scale, 4);
    }
    for (int64_t b = 0; b < blocks; b++) {
      int values[BLOCK];
      float scale = row_scale;
      if (from.source == FROM_QUANTIZED) {
        for (int i = 0; i < BLOCK; i++) values[i] = from.value(n, b * BLOCK + i);
        scale = from.scale(n, b);
      } else if (kind == INT8_CHANNEL) {
        const float inverse = row_scale > 0.f ? 1.f / row_scale : 0.f;
        for (int i = 0; i < BLOCK; i++)
          values[i] = (int)std::nearbyint(from.number(n, b * BLOCK + i) * inverse);
      } else {
        scale = quantize(from, kind, n, b * BLOCK, (b + 1) * BLOCK, values);
      }
      put_block(kind, out + b * unit.bytes, j, values);
      if (kind != INT8_CHANNEL) {
        const uint16_t half = float_to_float16(scale);
        memcpy(out + b * unit.bytes + scales_at + 2 * j, &half, 2);
      }
    }
  }
}

void pack_floats(const Origin &from, int kind, int64_t panel, uint8_t *out) {
  const int64_t units = units_of(kind, from.inputs);
  for (int j = 0; j < PANEL; j++)
    for (int64_t u = 0; u < units; u++) {
      const int64_t n = panel * PANEL + j;
      uint8_t *to = out + (u * PANEL + j) * 4;
      if (kind == FLOAT32) {
        const float w = from.number(n, u);
        memcpy(to, &w, 4);
      } else {
        const uint16_t pair[2] = {float_to_bfloat16(from.number(n, 2 * u)),
                                  float_to_bfloat16(from.number(n, 2 * u + 1))};
        memcpy(to, pair, 4);
      }
    }
}

void copy_rows(const Packed &w, const int32_t *ids, int64_t count, float *out) {
  for (int64_t m = 0; m < count; m++, out += w.inputs) {
    if (w.kind == FLOAT32_ROWS) {
      memcpy(out, w.data + 4 * ids[m] * w.inputs, (size_t)w.inputs * 4);
      continue;
    }
    const uint16_t *row = reinterpret_cast<const uint16_t *>(w.data) + ids[m] * w.inputs;
    for (int64_t k = 0; k < w.inputs; k++) out[k] = bfloat16_to_float(row[k]);
  }
}

} // namespace

void pack(const Packed &shape, Source source, const void *weights, const float *scales, int64_t blocks,
          uint8_t *out, const Pool &pool) {
  const Origin from = {source, weights, scales, blocks, shape.inputs, shape.outputs};
  const int kind = (int)shape.kind;
  const int64_t bytes = panel_bytes(kind, shape.inputs);
  parallel(pool, panels_of(shape.outputs), 8, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++)
      kind >= INT8 ? pack_integers(from, kind, p, out + p * bytes) : pack_floats(from, kind, p, out + p * bytes);
  });
}

void unpack_rows(const Packed &w, const int32_t *ids, int64_t count, float *out) {
  const int kind = (int)w.kind;
  if (!in_panels(kind)) return copy_rows(w, ids, count, out);
  const Unit unit = unit_of(kind);
  const int64_t bytes = panel_bytes(kind, w.inputs), units = units_of(kind, w.inputs);
  for (int64_t m = 0; m < count; m++, out += w.inputs) {
    const int j = ids[m] % PANEL;
    const uint8_t *panel = w.data + ids[m] / PANEL * bytes;
    float row_scale = 1.f;
    if (kind == INT8_CHANNEL) memcpy(&row_scale, panel + units * unit.bytes + 4 * j, 4);
    for (int64_t k = 0; k < w.inputs; k++) {
      const uint8_t *block = panel + k / unit.inputs * unit.bytes;
      const int i = (int)(k % unit.inputs);
      if (kind == FLOAT32) {
        memcpy(out + k, block + 4 * j, 4);
      } else if (kind == BFLOAT16) {
        uint16_t number;
        memcpy(&number, block + 4 * j + 2 * i, 2);
        out[k] = bfloat16_to_float(number);
      } else {
        float scale = row_scale;
        if (kind != INT8_CHANNEL) {
          uint16_t half;
          memcpy(&half, block + unit.bytes - 2 * PANEL + 2 * j, 2);
          scale = float16_to_float(half);
        }
        const int place = kind == INT4 ? i % 16 : i;
        const int byte = block[(place / 4 * PANEL + j) * 4 + place % 4];
        const int value = kind == INT4 ? (byte >> (i < 16 ? 0 : 4) & 15) - 8 : byte - 128;
        out[k] = (float)value * scale;
      }
    }
  }
}

} // namespace kg
