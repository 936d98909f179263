// How fast one thread reads memory: what benchmarks hold products against.
#include "ahead.h"
#include "c_api.h"

template <bool FETCH> static float read(const float *data, int64_t bytes) {
  // Four cache lines a turn into 64 sums, which compilers keep in registers.
  float sums[64] = {};
  for (int64_t i = 0; i + 64 <= bytes / 4; i += 64) {
    kg::fetch_ahead<FETCH>(reinterpret_cast<const uint8_t *>(data + i), 256);
    for (int j = 0; j < 64; j++) sums[j] += data[i + j];
  }
  float total = 0;
  for (int j = 0; j < 64; j++) total += sums[j];
  return total;
}

float kg_read(const float *data, int64_t bytes) {
  return kg::one_row_fetches() ? read<true>(data, bytes) : read<false>(data, bytes);
}
