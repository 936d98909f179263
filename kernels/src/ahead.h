// Asking for weights before they are needed.
#pragma once
#include <cstdint>

namespace kg {

// 8 KB ahead, into the second-level cache: the processor's own prefetching stops at each page. On a Xeon of
// 2023 (Emerald Rapids) cold products rose from 11.4 to 14.2 GB/s in float32, from 8.9 to 12.6 in bfloat16,
// 10.7 to 12.7 in int8, 8.8 to 12.4 in int4. Into the first level it was 2 to 9 % less (few of its misses can
// be under way at once), non-temporal half as fast; 4 KB ahead does nearly as well, 1.5 KB less. On Zen 4
// prefetching changed nothing. Beyond the end of the weights it is no access.
constexpr int64_t AHEAD = 8192;

static inline void fetch_ahead(const uint8_t *p, int64_t bytes) {
#if defined(__GNUC__) || defined(__clang__)
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + AHEAD + i, 0, 2);
#endif
}

} // namespace kg
