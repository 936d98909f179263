// AVX2 with FMA and F16C: 256 bits, up to three rows of floats at once.
//
// A panel's 32 sums fill four registers a row. One chain of additions each is enough: four chains of
// latency 4 take 128 bytes in 4 cycles, some 90 GB/s, three times what memory gives to a core.
#include "ahead.h"
#include "layout.h"
#include "unrolled.h"
#include "vector_ops.h"
#include <immintrin.h>

namespace kg {
namespace {

template <int M, int KIND, bool FETCH = rows_fetch(KIND, M)>
void product_float(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                   int64_t stride, bool first) {
  const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
  const float *x[M];
  __m256 sums[M][4];
  unrolled<M>([&](auto m) { x[m] = rows.x + (row + m) * rows.width; });
  unrolled<4 * M>([&](auto i) {
    sums[i / 4][i % 4] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(out + i / 4 * stride + i % 4 * 8);
  });
  for (int64_t u = u0; u < u1; u++, panel += 4 * PANEL) {
    fetch_ahead<FETCH>(panel, 4 * PANEL);
    unrolled<4>([&](auto j) {
      const __m256i w = _mm256_loadu_si256((const __m256i *)(panel + 32 * j));
      unrolled<M>([&](auto m) {
        if constexpr (KIND == FLOAT32) {
          sums[m][j] = _mm256_fmadd_ps(_mm256_broadcast_ss(x[m] + u), _mm256_castsi256_ps(w), sums[m][j]);
        } else {
          const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
          const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(w, upper));
          sums[m][j] = _mm256_fmadd_ps(_mm256_broadcast_ss(x[m] + 2 * u), even, sums[m][j]);
          sums[m][j] = _mm256_fmadd_ps(_mm256_broadcast_ss(x[m] + 2 * u + 1), odd, sums[m][j]);
        }
      });
    });
  }
  unrolled<4 * M>([&](auto i) { _mm256_storeu_ps(out + i / 4 * stride + i % 4 * 8, sums[i / 4][i % 4]); });
}

// Six rows and half of a panel fill twelve of the sixteen registers.
template <int M>
void tile(const float *x, int64_t inputs, const float *weights, float *out, int64_t stride, bool first) {
  for (int half = 0; half < PANEL; half += 16) {
    const float *from = x, *w = weights + half;
    __m256 sums[M][2];
    unrolled<2 * M>([&](auto i) {
      sums[i / 2][i % 2] =
          first ? _mm256_setzero_ps() : _mm256_loadu_ps(out + i / 2 * stride + half + i % 2 * 8);
    });
    for (int64_t k = 0; k < inputs; k++, from += M, w += PANEL) {
      const __m256 low = _mm256_loadu_ps(w), high = _mm256_loadu_ps(w + 8);
      unrolled<M>([&](auto m) {
        const __m256 b = _mm256_broadcast_ss(from + m);
        sums[m][0] = _mm256_fmadd_ps(b, low, sums[m][0]);
        sums[m][1] = _mm256_fmadd_ps(b, high, sums[m][1]);
      });
    }
    unrolled<2 * M>(
        [&](auto i) { _mm256_storeu_ps(out + i / 2 * stride + half + i % 2 * 8, sums[i / 2][i % 2]); });
  }
}

template <int M> void set_tiles(Kernels &k) {
  k.tile[M] = tile<M>;
  if constexpr (M > 1) set_tiles<M - 1>(k);
}

template <int HALF> inline __m256 weights_at(const uint8_t *row, int64_t k) {
  if (!HALF) return _mm256_loadu_ps(reinterpret_cast<const float *>(row) + k);
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i *>(row + 2 * k));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

inline float sum_of(__m256 v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

// M rows by one output, in two chains of sixteen sums: a single one would wait for its own additions.
template <int M, int HALF, bool FETCH>
inline void dots_of(const float *x, int64_t inputs, const uint8_t *weights, float *out, int64_t stride) {
  const int64_t whole = inputs / 32 * 32;
  __m256 sums[M][4];
  unrolled<4 * M>([&](auto i) { sums[i / 4][i % 4] = _mm256_setzero_ps(); });
  for (int64_t k = 0; k < whole; k += 32) {
    fetch_ahead<FETCH>(weights + k * (HALF ? 2 : 4), HALF ? 64 : 128);
    unrolled<4>([&](auto i) {
      const __m256 w = weights_at<HALF>(weights, k + 8 * i);
      unrolled<M>([&](auto m) {
        sums[m][i] = _mm256_fmadd_ps(_mm256_loadu_ps(x + m * inputs + k + 8 * i), w, sums[m][i]);
      });
    });
  }
  unrolled<M>([&](auto m) {
    const __m256 low = _mm256_add_ps(sums[m][0], sums[m][2]), high = _mm256_add_ps(sums[m][1], sums[m][3]);
    float sum = sum_of(_mm256_add_ps(low, high));
    for (int64_t k = whole; k < inputs; k++) {
      float w;
      if (HALF) {
        uint16_t half;
        memcpy(&half, weights + 2 * k, 2);
        w = bfloat16_to_float(half);
      } else {
        memcpy(&w, weights + 4 * k, 4);
      }
      sum += x[m * inputs + k] * w;
    }
    out[m * stride] = sum;
  });
}

template <int M, int HALF, bool FETCH>
void dots(const float *x, int64_t inputs, const uint8_t *weights, int64_t outputs, float *out, int64_t stride) {
  for (int64_t n = 0; n < outputs; n++, weights += inputs * (HALF ? 2 : 4))
    dots_of<M, HALF, FETCH>(x, inputs, weights, out + n, stride);
}

template <int M> void set_dots(Kernels &k) {
  const bool fetch = M > 1 || one_row_fetches();
  k.dots[0][M] = fetch ? dots<M, 0, true> : dots<M, 0, false>;
  k.dots[1][M] = fetch ? dots<M, 1, true> : dots<M, 1, false>;
  if constexpr (M > 1) set_dots<M - 1>(k);
}

inline __m256i four(const int8_t *q) {
  int32_t bits;
  memcpy(&bits, q, 4);
  return _mm256_set1_epi32(bits);
}

// Without VNNI bytes are multiplied by maddubs, whose sums of two must fit 16 bits: weights and
// activations within 127 in magnitude do (32,258), weights with their offset of 128 would not.
inline __m256i dot8(__m256i w, __m256i q, __m256i magnitude) {
  const __m256i value = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
  const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(value, q));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

template <int KIND, bool FETCH>
void product_int8(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                  int64_t, bool first) {
  __m256 sums[4];
  for (int j = 0; j < 4; j++) sums[j] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(out + 8 * j);
  for (int64_t u = u0; u < u1; u++, panel += unit_of(KIND).bytes) {
    fetch_ahead<FETCH>(panel, unit_of(KIND).bytes);
    const int64_t block = row * rows.blocks + u;
    const __m256 scale = _mm256_set1_ps(rows.scale[block]);
    __m256i dots[4];
    for (int j = 0; j < 4; j++) dots[j] = _mm256_setzero_si256();
    for (int g = 0; g < 8; g++) {
      const __m256i q = four(rows.q + block * BLOCK + 4 * g), magnitude = _mm256_abs_epi8(q);
      for (int j = 0; j < 4; j++) {
        const __m256i w = _mm256_loadu_si256((const __m256i *)(panel + 128 * g + 32 * j));
        dots[j] = _mm256_add_epi32(dots[j], dot8(w, q, magnitude));
      }
    }
    for (int j = 0; j < 4; j++) {
      __m256 factor = scale;
      if (KIND == INT8)
        factor = _mm256_mul_ps(
            scale, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(panel + 1024 + 16 * j))));
      sums[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[j]), factor, sums[j]);
    }
  }
  for (int j = 0; j < 4; j++) _mm256_storeu_ps(out + 8 * j, sums[j]);
}

template <bool FETCH>
void product_int4(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                  int64_t, bool first) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 sums[4];
  for (int j = 0; j < 4; j++) sums[j] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(out + 8 * j);
  for (int64_t u = u0; u < u1; u++, panel += unit_of(INT4).bytes) {
    fetch_ahead<FETCH>(panel, unit_of(INT4).bytes);
    const int64_t block = row * rows.blocks + u;
    const __m256 scale = _mm256_set1_ps(rows.scale[block]);
    const __m256i start = _mm256_set1_epi32(-8 * rows.sum[block]);
    __m256i pairs[4]; // 16 bits hold a block: 8 groups of 2 * 15 * 127 make 30,480
    for (int j = 0; j < 4; j++) pairs[j] = _mm256_setzero_si256();
    for (int g = 0; g < 4; g++) {
      const int8_t *q = rows.q + block * BLOCK + 4 * g;
      const __m256i first_half = four(q), second_half = four(q + 16);
      for (int j = 0; j < 4; j++) {
        const __m256i w = _mm256_loadu_si256((const __m256i *)(panel + 128 * g + 32 * j));
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
        pairs[j] = _mm256_add_epi16(pairs[j], _mm256_maddubs_epi16(_mm256_and_si256(w, low), first_half));
        pairs[j] = _mm256_add_epi16(pairs[j], _mm256_maddubs_epi16(high, second_half));
      }
    }
    for (int j = 0; j < 4; j++) {
      const __m256i dots = _mm256_add_epi32(start, _mm256_madd_epi16(pairs[j], ones));
      const __m256 half = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(panel + 512 + 16 * j)));
      sums[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), _mm256_mul_ps(scale, half), sums[j]);
    }
  }
  for (int j = 0; j < 4; j++) _mm256_storeu_ps(out + 8 * j, sums[j]);
}

template <int KIND> void set_floats(Kernels &k) {
  k.product[KIND][1] = one_row_fetches() ? product_float<1, KIND, true> : product_float<1, KIND>;
  k.product[KIND][2] = product_float<2, KIND>;
  k.product[KIND][3] = product_float<3, KIND>;
  k.group[KIND] = 3;
}

Kernels make() {
  Kernels k = *portable_kernels();
  k.name = "avx2";
  set_floats<FLOAT32>(k);
  set_floats<BFLOAT16>(k);
  const bool fetch = one_row_fetches();
  k.product[INT8][1] = fetch ? product_int8<INT8, true> : product_int8<INT8, false>;
  k.product[INT8_CHANNEL][1] = fetch ? product_int8<INT8_CHANNEL, true> : product_int8<INT8_CHANNEL, false>;
  k.product[INT4][1] = fetch ? product_int4<true> : product_int4<false>;
  set_tiles<6>(k);
  k.tile_rows = 6;
  set_dots<3>(k);
  k.dots_group = 3;
  set_vector_ops(k);
  return k;
}

} // namespace

const Kernels *avx2_kernels() {
  static const Kernels kernels = make();
  return &kernels;
}

} // namespace kg
