// The steps between products, written once and compiled for each instruction set.
//
// Sums run in 16 lanes side by side, which every compiler turns into vectors without being allowed to
// reorder anything else. All is `static`, and nothing of the standard library is used that could be
// emitted here with AVX-512 and then linked into code for processors without it.
#pragma once
#include "half.h"
#include "layout.h"
#include <cmath>

namespace kg {

constexpr int LANES = 16;

static inline float sum_lanes(const float *lanes) {
  float a[8], b[4];
  for (int i = 0; i < 8; i++) a[i] = lanes[i] + lanes[i + 8];
  for (int i = 0; i < 4; i++) b[i] = a[i] + a[i + 4];
  return (b[0] + b[2]) + (b[1] + b[3]);
}

// exp, 2e-7 of the value at most away, by 2^n times a polynomial on half a binary digit either way.
static inline float exp_near(float x) {
  x = x > 88.f ? 88.f : x < -87.f ? -87.f : x;
  float z = x * 1.44269504f;
  int n = (int)(z + (z < 0 ? -0.5f : 0.5f));
  float r = x - (float)n * 0.693359375f;
  r = r + (float)n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + (r + 1.f);
  return p * bits_to_float((uint32_t)(n + 127) << 23);
}

// Blocks of 32 to int8 by their largest magnitude; what is missing of the last block is zero.
// Magnitudes are compared as integers: a NaN is then the largest, and shows in the result.
static void quantize(const float *x, int64_t n, int8_t *q, float *scale, int32_t *sum) {
  for (int64_t k = 0; k < n; k += BLOCK, q += BLOCK) {
    float block[BLOCK];
    const float *from = x + k;
    if (n - k < BLOCK) {
      for (int i = 0; i < BLOCK; i++) block[i] = k + i < n ? from[i] : 0.f;
      from = block;
    }
    int32_t largest = 0;
    for (int i = 0; i < BLOCK; i++) {
      int32_t bits = (int32_t)(float_to_bits(from[i]) & 0x7fffffff);
      largest = bits > largest ? bits : largest;
    }
    float top = bits_to_float((uint32_t)largest);
    // Below 1e-36 the reciprocal overflows, and such a block adds nothing.
    float inverse = top > 1e-36f && top < 3e38f ? 127.f / top : 0.f;
    int32_t total = 0;
    for (int i = 0; i < BLOCK; i++) {
      // Adding 1.5 * 2^23 leaves the whole number, rounded to even, in the low bits.
      int32_t whole = (int32_t)float_to_bits(from[i] * inverse + 12582912.f) - 0x4b400000;
      total += whole;
      q[i] = (int8_t)whole;
    }
    *scale++ = top / 127.f;
    *sum++ = total;
  }
}

// x / rms(x) * (1 + weight): Gemma's weights are kept less one.
static void rms_norm(const float *x, const float *weight, float epsilon, float *out, int64_t n) {
  float lanes[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; j++) lanes[j] += x[i + j] * x[i + j];
  for (int j = 0; i + j < n; j++) lanes[j] += x[i + j] * x[i + j];
  float factor = 1.f / sqrtf(sum_lanes(lanes) / (float)n + epsilon);
  for (i = 0; i < n; i++) out[i] = x[i] * factor * (1.f + weight[i]);
}

// gelu(gate) * up with the tanh form of GELU, which is x times the logistic function of 2z.
static void geglu(const float *gate, const float *up, float *out, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    float x = gate[i], z = 1.5957691216f * x * (1.f + 0.044715f * x * x);
    out[i] = x / (1.f + exp_near(-z)) * up[i];
  }
}

static void soft_cap(float *x, float cap, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = cap - 2.f * cap / (1.f + exp_near(2.f * x[i] / cap));
}

static float softmax(float *x, int64_t n) {
  float top[LANES], lanes[LANES] = {};
  for (int j = 0; j < LANES; j++) top[j] = -INFINITY;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; j++) top[j] = x[i + j] > top[j] ? x[i + j] : top[j];
  for (int j = 0; i + j < n; j++) top[j] = x[i + j] > top[j] ? x[i + j] : top[j];
  float largest = top[0];
  for (int j = 1; j < LANES; j++) largest = top[j] > largest ? top[j] : largest;
  for (i = 0; i < n; i++) x[i] = exp_near(x[i] - largest);
  for (i = 0; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; j++) lanes[j] += x[i + j];
  for (int j = 0; i + j < n; j++) lanes[j] += x[i + j];
  return sum_lanes(lanes);
}

static inline float widen(float x) { return x; }
static inline float widen(uint16_t x) { return bfloat16_to_float(x); }

template <typename T, int HEADS>
static void scores_of(const float *q, const T *key, int64_t n, float *out, int64_t stride) {
  float lanes[HEADS][LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int h = 0; h < HEADS; h++)
      for (int j = 0; j < LANES; j++) lanes[h][j] += q[h * n + i + j] * widen(key[i + j]);
  for (int h = 0; h < HEADS; h++) {
    for (int64_t j = 0; i + j < n; j++) lanes[h][j] += q[h * n + i + j] * widen(key[i + j]);
    out[h * stride] = sum_lanes(lanes[h]);
  }
}

template <typename T>
static void one_row_of_dots(const float *x, int64_t inputs, const uint8_t *weights, int64_t outputs, float *out,
                            int64_t stride) {
  const T *w = reinterpret_cast<const T *>(weights);
  for (int64_t n = 0; n < outputs; n++) scores_of<T, 1>(x, w + n * inputs, inputs, out + n, stride);
}

template <typename T>
static void scores(const float *q, int64_t heads, const void *key, int64_t n, float *out, int64_t stride) {
  const T *k = static_cast<const T *>(key);
  for (; heads >= 2; heads -= 2, q += 2 * n, out += 2 * stride) scores_of<T, 2>(q, k, n, out, stride);
  if (heads) scores_of<T, 1>(q, k, n, out, stride);
}

// Four values at a time, so that an output is read and written once for all of them.
template <typename T>
static void mix(const float *weights, int64_t heads, int64_t stride, const void *const *values, int count,
                float *out, int64_t n) {
  const T *v[4];
  for (int i = 0; i < 4; i++) v[i] = static_cast<const T *>(values[i < count ? i : 0]);
  for (int64_t h = 0; h < heads; h++, weights += stride, out += n) {
    float w[4];
    for (int i = 0; i < 4; i++) w[i] = i < count ? weights[i] : 0.f;
    for (int64_t i = 0; i < n; i++)
      out[i] += (w[0] * widen(v[0][i]) + w[1] * widen(v[1][i])) +
                (w[2] * widen(v[2][i]) + w[3] * widen(v[3][i]));
  }
}

// Units of a bfloat16 panel to float32 [inputs][32].
static void widen_bfloat16(const uint8_t *units, int64_t count, float *out) {
  for (int64_t u = 0; u < count; u++, units += 4 * PANEL, out += 2 * PANEL) {
    uint32_t pairs[PANEL];
    memcpy(pairs, units, sizeof pairs);
    for (int j = 0; j < PANEL; j++) out[j] = bits_to_float(pairs[j] << 16);
    for (int j = 0; j < PANEL; j++) out[PANEL + j] = bits_to_float(pairs[j] & 0xffff0000);
  }
}

static inline void set_vector_ops(Kernels &k) {
  k.widen = widen_bfloat16;
  k.quantize = quantize;
  k.rms_norm = rms_norm;
  k.geglu = geglu;
  k.soft_cap = soft_cap;
  k.softmax = softmax;
  k.scores[0] = scores<float>;
  k.scores[1] = scores<uint16_t>;
  k.mix[0] = mix<float>;
  k.mix[1] = mix<uint16_t>;
}

} // namespace kg
