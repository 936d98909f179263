// AVX-512's instructions on 256 bits: twice the registers of AVX2, so three rows of integers at once.
#define KG_DPBUSD _mm256_dpbusd_epi32
#include "product_vnni.h"

namespace kg {

template <int KIND> static void set_integers(Kernels &k) {
  set_one_row<KIND>(k);
  k.product[KIND][2] = product_vnni<2, KIND>;
  k.product[KIND][3] = product_vnni<3, KIND>;
  k.group[KIND] = 3;
}

static Kernels make() {
  Kernels k = *avx2_kernels();
  k.name = "vnni";
  set_integers<INT8>(k);
  set_integers<INT8_CHANNEL>(k);
  set_integers<INT4>(k);
  set_vector_ops(k);
  return k;
}

const Kernels *vnni_kernels() {
  static const Kernels kernels = make();
  return &kernels;
}

} // namespace kg
