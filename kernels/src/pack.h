#pragma once
#include "layout.h"
#include "pool.h"

namespace kg {

enum Source { FROM_FLOAT32, FROM_BFLOAT16, FROM_QUANTIZED };

// From [outputs, inputs] row by row: floats, or values of int8 (int4: one a byte) with float32 scales of
// [outputs, blocks]; one block is one scale for the whole row.
void pack(const Packed &shape, Source source, const void *weights, const float *scales, int64_t blocks,
          uint8_t *out, const Pool &pool);

// Rows `ids` of the matrix as float32 [count, inputs]; the ids must be in range.
void unpack_rows(const Packed &weights, const int32_t *ids, int64_t count, float *out);

} // namespace kg
