#include "c_api.h"

#ifdef KG_XLA
#include "xla/ffi/api/c_api.h"
#endif

static kg::Pool pool_of(kg::ParallelFor parallel_for, void *owner, int64_t threads) {
  return parallel_for ? kg::Pool{parallel_for, owner, threads} : kg::own_pool(threads);
}

const char *kg_isa() { return kg::kernels().name; }
const char *kg_isas() { return kg::kernel_names(); }
int kg_use(const char *isa) { return kg::use_kernels(isa); }

int kg_xla_api() {
#ifdef KG_XLA
  return XLA_FFI_API_MINOR;
#else
  return -1;
#endif
}

int64_t kg_panel_bytes(int64_t kind, int64_t inputs) { return kg::panel_bytes((int)kind, inputs); }

void kg_pack(const kg::Packed *shape, int64_t source, const void *weights, const float *scales, int64_t blocks,
             uint8_t *out, int64_t threads) {
  kg::pack(*shape, (kg::Source)source, weights, scales, blocks, out, kg::own_pool(threads));
}

void kg_rows(const kg::Packed *weights, const int32_t *ids, int64_t count, float *out) {
  kg::unpack_rows(*weights, ids, count, out);
}

void kg_linear(const kg::Packed *weights, const float *x, int64_t rows, float *out,
               kg::ParallelFor parallel_for, void *owner, int64_t threads) {
  kg::product(*weights, x, rows, out, pool_of(parallel_for, owner, threads));
}

void kg_norm_linear(const kg::Packed *weights, const float *norm, float epsilon, float cap, const float *x,
                    int64_t rows, float *out, kg::ParallelFor parallel_for, void *owner, int64_t threads) {
  kg::norm_product(*weights, norm, epsilon, cap, x, rows, out, pool_of(parallel_for, owner, threads));
}

void kg_attend(const kg::Block *block, const kg::Rules *rules, const kg::Tokens *tokens, const float *qkv,
               const kg::Cache *cache, float *out, kg::ParallelFor parallel_for, void *owner,
               int64_t threads) {
  kg::attend(*rules, block->query_norm, block->key_norm, *tokens, qkv, *cache, out,
             pool_of(parallel_for, owner, threads));
}

void kg_add_linear(const kg::Packed *weights, const float *norm, float epsilon, const float *x, const float *y,
                   int64_t rows, float *out, kg::ParallelFor parallel_for, void *owner, int64_t threads) {
  kg::add_product(*weights, norm, epsilon, x, y, rows, out, pool_of(parallel_for, owner, threads));
}

void kg_feed_forward(const kg::Block *block, float epsilon, const float *x, int64_t rows, float *out,
                     kg::ParallelFor parallel_for, void *owner, int64_t threads) {
  kg::feed_forward(*block, epsilon, x, rows, out, pool_of(parallel_for, owner, threads));
}

void kg_decoder_block(const kg::Block *block, const kg::Rules *rules, const kg::Tokens *tokens, const float *x,
                      const kg::Cache *cache, float *out, kg::ParallelFor parallel_for, void *owner,
                      int64_t threads) {
  kg::decoder_block(*block, *rules, *tokens, x, *cache, out, pool_of(parallel_for, owner, threads));
}
