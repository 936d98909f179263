// AVX2 with AVX-VNNI: processors that have vpdpbusd and no AVX-512. Sixteen registers hold one row.
#define KG_DPBUSD _mm256_dpbusd_avx_epi32
#include "product_vnni.h"

namespace kg {

static Kernels make() {
  Kernels k = *avx2_kernels();
  k.name = "avx_vnni";
  set_one_row<INT8>(k);
  set_one_row<INT8_CHANNEL>(k);
  set_one_row<INT4>(k);
  return k;
}

const Kernels *avx_vnni_kernels() {
  static const Kernels kernels = make();
  return &kernels;
}

} // namespace kg
