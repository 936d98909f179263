// Asking for weights before they are needed.
#pragma once
#include "layout.h"

namespace kg {

// 8 KB ahead, into the second-level cache: the processor's own prefetching stops at each page. Into the first
// level it was 2 to 9 % less (few of its misses can be under way at once), non-temporal half as fast; 4 KB
// ahead does nearly as well, 1.5 KB less. Beyond the end of the weights it is no access.
constexpr int64_t AHEAD = 8192;

template <bool FETCH> static inline void fetch_ahead(const uint8_t *p, int64_t bytes) {
#if defined(__GNUC__) || defined(__clang__)
  if (FETCH)
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + AHEAD + i, 0, 2);
#endif
}

// One row asks for nothing but arithmetic that keeps up with memory, and the processor decides. On a Xeon of 2023
// (Emerald Rapids) asking ahead raised cold products from 11.4 to 14.2 GB/s in float32, 8.9 to 12.6 in bfloat16,
// 10.7 to 12.7 in int8, 8.8 to 12.4 in int4; on Zen 4 it lowers them from 27 to 20, 26 to 23, 21 to 18 and 25
// to 20.
bool one_row_fetches();

// Where arithmetic takes longer than a line's way from memory, the next lines have to be under way meanwhile. On
// Zen 4 eight rows rose from 8.4 to 12.8 GB/s in bfloat16, 8.4 to 16.1 in int8, 8.0 to 11.4 in int4; three rows
// of bfloat16, which has to be widened, from 15 to 23, of float32 and of integers they lost a sixth.
constexpr bool rows_fetch(int kind, int rows) { return rows > (kind == BFLOAT16 ? 1 : 3); }

} // namespace kg
