// 512 bits from four rows up, or from the first: for one row Zen 4 reads memory faster with 256 bits (float32
// 24 against 20 GB/s), a Xeon of 2023 with 512 (14.9 against 13.7 GB/s, int8 13.2 against 12.2).
//
// Activations stay float32 against bfloat16 weights. vdpbf16 would round them, a row's result would
// change with the number of rows beside it, and up to eight rows there is nothing to gain: widening costs
// four instructions for 128 bytes, against eight multiply-adds for four rows.
#include "ahead.h"
#include "layout.h"
#include "unrolled.h"
#include "vector_ops.h"
#include <immintrin.h>

namespace kg {
namespace {

inline __m512i load(const uint8_t *p) { return _mm512_loadu_si512((const void *)p); }

template <int M>
KG_INLINE void begin(__m512 (&sums)[M][2], const float *out, int64_t stride, bool first) {
  unrolled<2 * M>([&](auto i) {
    sums[i / 2][i % 2] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(out + i / 2 * stride + i % 2 * 16);
  });
}

template <int M> KG_INLINE void end(const __m512 (&sums)[M][2], float *out, int64_t stride) {
  unrolled<2 * M>([&](auto i) { _mm512_storeu_ps(out + i / 2 * stride + i % 2 * 16, sums[i / 2][i % 2]); });
}

template <int M, int KIND, bool FETCH = rows_fetch(KIND, M)>
void product_float(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                   int64_t stride, bool first) {
  const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
  const float *x = rows.x + row * rows.width;
  __m512 sums[M][2];
  begin<M>(sums, out, stride, first);
  for (int64_t u = u0; u < u1; u++, panel += 4 * PANEL) {
    fetch_ahead<FETCH>(panel, 4 * PANEL);
    const __m512i w[2] = {load(panel), load(panel + 64)};
    if constexpr (KIND == FLOAT32) {
      unrolled<M>([&](auto m) {
        const __m512 b = _mm512_set1_ps(x[m * rows.width + u]);
        unrolled<2>([&](auto j) { sums[m][j] = _mm512_fmadd_ps(b, _mm512_castsi512_ps(w[j]), sums[m][j]); });
      });
    } else {
      __m512 even[2], odd[2];
      unrolled<2>([&](auto j) {
        even[j] = _mm512_castsi512_ps(_mm512_slli_epi32(w[j], 16));
        odd[j] = _mm512_castsi512_ps(_mm512_and_si512(w[j], upper));
      });
      unrolled<M>([&](auto m) {
        const __m512 b0 = _mm512_set1_ps(x[m * rows.width + 2 * u]);
        const __m512 b1 = _mm512_set1_ps(x[m * rows.width + 2 * u + 1]);
        unrolled<2>([&](auto j) {
          sums[m][j] = _mm512_fmadd_ps(b1, odd[j], _mm512_fmadd_ps(b0, even[j], sums[m][j]));
        });
      });
    }
  }
  end<M>(sums, out, stride);
}

// 12 rows and 32 outputs in 24 of the 32 registers: 24 multiply-adds for 14 loads.
template <int M>
void tile(const float *x, int64_t inputs, const float *weights, float *out, int64_t stride, bool first) {
  __m512 sums[M][2];
  begin<M>(sums, out, stride, first);
  for (int64_t k = 0; k < inputs; k++, x += M, weights += PANEL) {
    const __m512 w[2] = {_mm512_loadu_ps(weights), _mm512_loadu_ps(weights + 16)};
    unrolled<M>([&](auto m) {
      const __m512 b = _mm512_set1_ps(x[m]);
      unrolled<2>([&](auto j) { sums[m][j] = _mm512_fmadd_ps(b, w[j], sums[m][j]); });
    });
  }
  end<M>(sums, out, stride);
}

template <int M> void set_tiles(Kernels &k) {
  k.tile[M] = tile<M>;
  if constexpr (M > 1) set_tiles<M - 1>(k);
}

// Sixteen weights of a row as it lies in a variable; those that `some` leaves out are zeros.
template <int HALF> inline __m512 weights_at(const uint8_t *row, int64_t k, __mmask16 some) {
  if (!HALF) return _mm512_maskz_loadu_ps(some, reinterpret_cast<const float *>(row) + k);
  const __m256i bits = _mm256_maskz_loadu_epi16(some, reinterpret_cast<const uint16_t *>(row) + k);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// M rows by N outputs, each in two chains of sixteen sums: a single one would wait for its own additions. N is 2
// for several rows, so that what is loaded is used more than once.
template <int M, int N, int HALF, bool FETCH>
inline void dots_of(const float *x, int64_t inputs, const uint8_t *weights, float *out, int64_t stride) {
  const int64_t bytes = inputs * (HALF ? 2 : 4), whole = inputs / 32 * 32;
  __m512 even[M * N], odd[M * N];
  unrolled<M * N>([&](auto i) { even[i] = odd[i] = _mm512_setzero_ps(); });
  const auto add = [&](__m512 (&sums)[M * N], int64_t k, __mmask16 some) {
    __m512 w[N], a[M];
    unrolled<N>([&](auto n) { w[n] = weights_at<HALF>(weights + n * bytes, k, some); });
    unrolled<M>([&](auto m) { a[m] = _mm512_maskz_loadu_ps(some, x + m * inputs + k); });
    unrolled<M * N>([&](auto i) { sums[i] = _mm512_fmadd_ps(a[i / N], w[i % N], sums[i]); });
  };
  for (int64_t k = 0; k < whole; k += 32) {
    for (int n = 0; n < N; n++) fetch_ahead<FETCH>(weights + n * bytes + k * (HALF ? 2 : 4), HALF ? 64 : 128);
    add(even, k, 0xffff);
    add(odd, k + 16, 0xffff);
  }
  const auto up_to = [](int64_t left) { return left < 16 ? (__mmask16)((1 << left) - 1) : (__mmask16)0xffff; };
  if (whole < inputs) add(even, whole, up_to(inputs - whole));
  if (whole + 16 < inputs) add(odd, whole + 16, up_to(inputs - whole - 16));
  unrolled<M * N>([&](auto i) {
    out[i / N * stride + i % N] = _mm512_reduce_add_ps(_mm512_add_ps(even[i], odd[i]));
  });
}

template <int M, int HALF, bool FETCH>
void dots(const float *x, int64_t inputs, const uint8_t *weights, int64_t outputs, float *out, int64_t stride) {
  constexpr int N = M > 1 ? 2 : 1; // one row reads memory as one stream
  const int64_t bytes = inputs * (HALF ? 2 : 4);
  int64_t n = 0;
  for (; n + N <= outputs; n += N)
    dots_of<M, N, HALF, FETCH>(x, inputs, weights + n * bytes, out + n, stride);
  if (n < outputs) dots_of<M, 1, HALF, FETCH>(x, inputs, weights + n * bytes, out + n, stride);
}

template <int M> void set_dots(Kernels &k) {
  const bool fetch = M > 1 || one_row_fetches();
  k.dots[0][M] = fetch ? dots<M, 0, true> : dots<M, 0, false>;
  k.dots[1][M] = fetch ? dots<M, 1, true> : dots<M, 1, false>;
  if constexpr (M > 1) set_dots<M - 1>(k);
}

inline __m512i dot(__m512i sums, __m512i w, const int8_t *q) {
  int32_t bits;
  memcpy(&bits, q, 4);
  return _mm512_dpbusd_epi32(sums, w, _mm512_set1_epi32(bits));
}

template <int M, int KIND, bool FETCH = rows_fetch(KIND, M)>
void product_integer(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel, float *out,
                     int64_t stride, bool first) {
  constexpr int groups = KIND == INT4 ? 4 : 8, offset = KIND == INT4 ? 8 : 128;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 sums[M][2];
  begin<M>(sums, out, stride, first);
  for (int64_t u = u0; u < u1; u++, panel += unit_of(KIND).bytes) {
    fetch_ahead<FETCH>(panel, unit_of(KIND).bytes);
    const int64_t block = row * rows.blocks + u;
    __m512i dots[M][2];
    unrolled<M>([&](auto m) {
      dots[m][0] = dots[m][1] = _mm512_set1_epi32(-offset * rows.sum[block + m * rows.blocks]);
    });
    unrolled<2 * groups>([&](auto i) {
      constexpr int g = i / 2, j = i % 2;
      const __m512i w = load(panel + 128 * g + 64 * j);
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(w, 4), low);
      unrolled<M>([&](auto m) {
        const int8_t *q = rows.q + (block + m * rows.blocks) * BLOCK + 4 * g;
        if constexpr (KIND == INT4)
          dots[m][j] = dot(dot(dots[m][j], _mm512_and_si512(w, low), q), high, q + 16);
        else
          dots[m][j] = dot(dots[m][j], w, q);
      });
    });
    unrolled<2>([&](auto j) {
      __m512 half = _mm512_setzero_ps();
      if constexpr (KIND != INT8_CHANNEL)
        half = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(panel + groups * 128 + 32 * j)));
      unrolled<M>([&](auto m) {
        __m512 factor = _mm512_set1_ps(rows.scale[block + m * rows.blocks]);
        if constexpr (KIND != INT8_CHANNEL) factor = _mm512_mul_ps(factor, half);
        sums[m][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[m][j]), factor, sums[m][j]);
      });
    });
  }
  end<M>(sums, out, stride);
}

template <int KIND> void set_few(Kernels &k) {
  const bool fetch = one_row_fetches();
  if constexpr (KIND < INT8)
    k.product[KIND][1] = fetch ? product_float<1, KIND, true> : product_float<1, KIND>;
  else
    k.product[KIND][1] = fetch ? product_integer<1, KIND, true> : product_integer<1, KIND>;
  k.product[KIND][2] = KIND < INT8 ? product_float<2, KIND> : product_integer<2, KIND>;
  k.product[KIND][3] = KIND < INT8 ? product_float<3, KIND> : product_integer<3, KIND>;
}

template <int KIND> void set_floats(Kernels &k) { // eight rows take 16 of the 32 registers
  k.product[KIND][4] = product_float<4, KIND>;
  k.product[KIND][5] = product_float<5, KIND>;
  k.product[KIND][6] = product_float<6, KIND>;
  k.product[KIND][7] = product_float<7, KIND>;
  k.product[KIND][8] = product_float<8, KIND>;
  k.group[KIND] = 8;
}

template <int KIND> void set_integers(Kernels &k) { // six rows take 24
  k.product[KIND][4] = product_integer<4, KIND>;
  k.product[KIND][5] = product_integer<5, KIND>;
  k.product[KIND][6] = product_integer<6, KIND>;
  k.group[KIND] = 6;
}

Kernels make(bool wide) {
  Kernels k = *vnni_kernels();
  k.name = wide ? "avx512_wide" : "avx512";
  if (wide) {
    set_few<FLOAT32>(k);
    set_few<BFLOAT16>(k);
    set_few<INT8>(k);
    set_few<INT8_CHANNEL>(k);
    set_few<INT4>(k);
  }
  set_floats<FLOAT32>(k);
  set_floats<BFLOAT16>(k);
  set_integers<INT8>(k);
  set_integers<INT8_CHANNEL>(k);
  set_integers<INT4>(k);
  set_tiles<12>(k);
  k.tile_rows = 12;
  set_dots<6>(k); // in 24 of the 32 registers
  k.dots_group = 6;
  set_vector_ops(k);
  return k;
}

} // namespace

const Kernels *avx512_kernels() {
  static const Kernels kernels = make(false);
  return &kernels;
}

const Kernels *avx512_wide_kernels() {
  static const Kernels kernels = make(true);
  return &kernels;
}

} // namespace kg
