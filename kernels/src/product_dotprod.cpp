// NEON with dot products of bytes: Cortex-A76, Neoverse N1, Apple M1 and later.
#include "product_neon.h"

namespace kg {

static Kernels make() {
  Kernels k = *neon_kernels();
  k.name = "dotprod";
  set_integers(k);
  return k;
}

const Kernels *dotprod_kernels() {
  static const Kernels kernels = make();
  return &kernels;
}

} // namespace kg
