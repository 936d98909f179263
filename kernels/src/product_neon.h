// NEON products, for processors with and without dot products of bytes.
//
// A panel's 32 sums fill eight registers of 128 bits, of 32: three rows of floats, one of integers.
#pragma once
#include "layout.h"
#include "vector_ops.h"
#include <arm_neon.h>

namespace kg {
namespace {

template <int M, int KIND>
void product_float(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                   int64_t stride, bool first) {
  const float *x = rows.x + row * rows.width;
  const uint32x4_t upper = vdupq_n_u32(0xffff0000);
  float32x4_t sums[M][8];
  for (int m = 0; m < M; m++)
    for (int j = 0; j < 8; j++) sums[m][j] = first ? vdupq_n_f32(0.f) : vld1q_f32(out + m * stride + 4 * j);
  for (int64_t u = u0; u < u1; u++, panel += 4 * PANEL)
    for (int j = 0; j < 8; j++) {
      const uint32x4_t w = vreinterpretq_u32_u8(vld1q_u8(panel + 16 * j));
      for (int m = 0; m < M; m++)
        if (KIND == FLOAT32) {
          sums[m][j] = vfmaq_n_f32(sums[m][j], vreinterpretq_f32_u32(w), x[m * rows.width + u]);
        } else {
          const float32x4_t even = vreinterpretq_f32_u32(vshlq_n_u32(w, 16));
          const float32x4_t odd = vreinterpretq_f32_u32(vandq_u32(w, upper));
          sums[m][j] = vfmaq_n_f32(sums[m][j], even, x[m * rows.width + 2 * u]);
          sums[m][j] = vfmaq_n_f32(sums[m][j], odd, x[m * rows.width + 2 * u + 1]);
        }
    }
  for (int m = 0; m < M; m++)
    for (int j = 0; j < 8; j++) vst1q_f32(out + m * stride + 4 * j, sums[m][j]);
}

template <int M>
void tile(const float *x, int64_t inputs, const float *weights, float *out, int64_t stride, bool first) {
  float32x4_t sums[M][8];
  for (int m = 0; m < M; m++)
    for (int j = 0; j < 8; j++) sums[m][j] = first ? vdupq_n_f32(0.f) : vld1q_f32(out + m * stride + 4 * j);
  for (int64_t k = 0; k < inputs; k++, x += M, weights += PANEL)
    for (int j = 0; j < 8; j++) {
      const float32x4_t w = vld1q_f32(weights + 4 * j);
      for (int m = 0; m < M; m++) sums[m][j] = vfmaq_n_f32(sums[m][j], w, x[m]);
    }
  for (int m = 0; m < M; m++)
    for (int j = 0; j < 8; j++) vst1q_f32(out + m * stride + 4 * j, sums[m][j]);
}

// Four sums, each of four products; `q` holds the same four bytes four times.
inline int32x4_t dot(int32x4_t sums, int8x16_t w, int8x16_t q) {
#ifdef __ARM_FEATURE_DOTPROD
  return vdotq_s32(sums, w, q);
#else
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(q)), high = vmull_high_s8(w, q);
  return vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}

inline int8x16_t four_bytes(const int8_t *q) {
  int32_t bits;
  memcpy(&bits, q, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(bits));
}

// Bytes are signed here: the offset of int8 is taken off by flipping a bit, that of int4 by the sum.
template <int KIND>
void product_integer(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                     int64_t, bool first) {
  constexpr int groups = KIND == INT4 ? 4 : 8;
  const uint8x16_t flip = vdupq_n_u8(0x80), low = vdupq_n_u8(15);
  float32x4_t sums[8];
  for (int j = 0; j < 8; j++) sums[j] = first ? vdupq_n_f32(0.f) : vld1q_f32(out + 4 * j);
  for (int64_t u = u0; u < u1; u++, panel += unit_of(KIND).bytes) {
    const int64_t block = row * rows.blocks + u;
    int32x4_t dots[8];
    for (int j = 0; j < 8; j++) dots[j] = vdupq_n_s32(KIND == INT4 ? -8 * rows.sum[block] : 0);
    for (int g = 0; g < groups; g++) {
      const int8x16_t q = four_bytes(rows.q + block * BLOCK + 4 * g);
      for (int j = 0; j < 8; j++) {
        const uint8x16_t w = vld1q_u8(panel + 128 * g + 16 * j);
        if (KIND == INT4) {
          const int8x16_t second = four_bytes(rows.q + block * BLOCK + 4 * g + 16);
          dots[j] = dot(dots[j], vreinterpretq_s8_u8(vandq_u8(w, low)), q);
          dots[j] = dot(dots[j], vreinterpretq_s8_u8(vshrq_n_u8(w, 4)), second);
        } else {
          dots[j] = dot(dots[j], vreinterpretq_s8_u8(veorq_u8(w, flip)), q);
        }
      }
    }
    for (int j = 0; j < 8; j++) {
      float32x4_t factor = vdupq_n_f32(rows.scale[block]);
      if (KIND != INT8_CHANNEL) {
        const uint8x8_t half = vld1_u8(panel + groups * 128 + 8 * j);
        factor = vmulq_f32(factor, vcvt_f32_f16(vreinterpret_f16_u8(half)));
      }
      sums[j] = vfmaq_f32(sums[j], vcvtq_f32_s32(dots[j]), factor);
    }
  }
  for (int j = 0; j < 8; j++) vst1q_f32(out + 4 * j, sums[j]);
}

inline void set_tiles(Kernels &k) {
  k.tile[1] = tile<1>;
  k.tile[2] = tile<2>;
  k.tile[3] = tile<3>;
  k.tile_rows = 3;
  k.dots[0][1] = one_row_of_dots<float>;
  k.dots[1][1] = one_row_of_dots<uint16_t>;
}

inline void set_integers(Kernels &k) {
  k.product[INT8][1] = product_integer<INT8>;
  k.product[INT8_CHANNEL][1] = product_integer<INT8_CHANNEL>;
  k.product[INT4][1] = product_integer<INT4>;
}

template <int KIND> void set_floats(Kernels &k) {
  k.product[KIND][1] = product_float<1, KIND>;
  k.product[KIND][2] = product_float<2, KIND>;
  k.product[KIND][3] = product_float<3, KIND>;
  k.group[KIND] = 3;
}

} // namespace
} // namespace kg
