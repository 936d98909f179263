#pragma once
#include "layout.h"
#include "pool.h"

namespace kg {

// out[M, outputs] = x[M, inputs] times the packed matrix transposed; rows lie one after another.
// A row of zeros, as padding has them, costs next to nothing.
void product(const Packed &weights, const float *x, int64_t rows, float *out, const Pool &pool);

// The same for floats by tiles, in panels, where rows are more than ROWS_AT_ONCE: `product` calls it.
void product_of_many(const Packed &weights, const float *x, int64_t rows, float *out, const Pool &pool);

} // namespace kg
