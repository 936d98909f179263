// Integer products by vpdpbusd on 256 bits, for both of its encodings: KG_DPBUSD names the one to use.
//
// From memory 256 bits were faster than 512 for one row: int8 23.4 against 20.6 GB/s, int4 22.7 against
// 20.0 (Zen 4). The offset of the weights costs no bytes: -128 * sum(x) is where a dot product starts.
#pragma once
#include "ahead.h"
#include "layout.h"
#include "unrolled.h"
#include "vector_ops.h"
#include <immintrin.h>

namespace kg {
namespace {

inline __m256i four_bytes(const int8_t *q) {
  int32_t bits;
  memcpy(&bits, q, 4);
  return _mm256_set1_epi32(bits);
}

template <int M, int KIND, bool FETCH = rows_fetch(KIND, M)>
void product_vnni(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                  int64_t stride, bool first) {
  constexpr int groups = KIND == INT4 ? 4 : 8, offset = KIND == INT4 ? 8 : 128;
  const __m256i low = _mm256_set1_epi8(15);
  __m256 sums[M][4];
  unrolled<4 * M>([&](auto i) {
    sums[i / 4][i % 4] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(out + i / 4 * stride + i % 4 * 8);
  });
  for (int64_t u = u0; u < u1; u++, panel += unit_of(KIND).bytes) {
    fetch_ahead<FETCH>(panel, unit_of(KIND).bytes);
    const int64_t block = row * rows.blocks + u;
    __m256i dots[M][4];
    unrolled<4 * M>([&](auto i) {
      dots[i / 4][i % 4] = _mm256_set1_epi32(-offset * rows.sum[block + i / 4 * rows.blocks]);
    });
    unrolled<4 * groups>([&](auto i) {
      constexpr int g = i / 4, j = i % 4;
      const __m256i w = _mm256_loadu_si256((const __m256i *)(panel + 128 * g + 32 * j));
      unrolled<M>([&](auto m) {
        const int8_t *q = rows.q + (block + m * rows.blocks) * BLOCK + 4 * g;
        if constexpr (KIND == INT4) {
          const __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
          dots[m][j] = KG_DPBUSD(dots[m][j], _mm256_and_si256(w, low), four_bytes(q));
          dots[m][j] = KG_DPBUSD(dots[m][j], high, four_bytes(q + 16));
        } else {
          dots[m][j] = KG_DPBUSD(dots[m][j], w, four_bytes(q));
        }
      });
    });
    unrolled<4>([&](auto j) {
      __m256 half = _mm256_setzero_ps();
      if constexpr (KIND != INT8_CHANNEL)
        half = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(panel + groups * 128 + 16 * j)));
      unrolled<M>([&](auto m) {
        __m256 factor = _mm256_set1_ps(rows.scale[block + m * rows.blocks]);
        if constexpr (KIND != INT8_CHANNEL) factor = _mm256_mul_ps(factor, half);
        sums[m][j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[m][j]), factor, sums[m][j]);
      });
    });
  }
  unrolled<4 * M>([&](auto i) { _mm256_storeu_ps(out + i / 4 * stride + i % 4 * 8, sums[i / 4][i % 4]); });
}

template <int KIND> void set_one_row(Kernels &k) {
  k.product[KIND][1] = one_row_fetches() ? product_vnni<1, KIND, true> : product_vnni<1, KIND>;
}

} // namespace
} // namespace kg
