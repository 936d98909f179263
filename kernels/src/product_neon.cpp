// NEON, which every 64-bit Arm processor has.
#include "product_neon.h"

namespace kg {

static Kernels make() {
  Kernels k = *portable_kernels();
  k.name = "neon";
  set_floats<FLOAT32>(k);
  set_floats<BFLOAT16>(k);
  set_integers(k);
  set_tiles(k);
  set_vector_ops(k);
  return k;
}

const Kernels *neon_kernels() {
  static const Kernels kernels = make();
  return &kernels;
}

} // namespace kg
