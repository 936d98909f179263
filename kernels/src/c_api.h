// The plain C interface: what Python's ctypes, or any other caller, sees.
//
// Sizes are checked by the caller. `parallel_for` may be null: the library's own threads then serve,
// `threads` of them, the caller included.
#pragma once
#include "block.h"
#include "pack.h"
#include "product.h"

#ifdef _WIN32
#define KG_API extern "C" __declspec(dllexport)
#else
#define KG_API extern "C" __attribute__((visibility("default")))
#endif

KG_API const char *kg_isa();
KG_API const char *kg_isas(); // with commas between, best last
KG_API int kg_use(const char *isa);
KG_API int kg_xla_api(); // minor version of the XLA FFI built against; -1: built without

KG_API float kg_read(const float *data, int64_t bytes);

KG_API int64_t kg_panel_bytes(int64_t kind, int64_t inputs);
KG_API void kg_pack(const kg::Packed *shape, int64_t source, const void *weights, const float *scales,
                    int64_t blocks, uint8_t *out, int64_t threads);
KG_API void kg_rows(const kg::Packed *weights, const int32_t *ids, int64_t count, float *out);

KG_API void kg_linear(const kg::Packed *weights, const float *x, int64_t rows, float *out,
                      kg::ParallelFor parallel_for, void *owner, int64_t threads);

// The steps of a block; see block.h.
KG_API void kg_norm_linear(const kg::Packed *weights, const float *norm, float epsilon, float cap,
                           const float *x, int64_t rows, float *out, kg::ParallelFor parallel_for,
                           void *owner, int64_t threads);
KG_API void kg_attend(const kg::Block *block, const kg::Rules *rules, const kg::Tokens *tokens,
                      const float *qkv, const kg::Cache *cache, float *out, kg::ParallelFor parallel_for,
                      void *owner, int64_t threads);
KG_API void kg_add_linear(const kg::Packed *weights, const float *norm, float epsilon, const float *x,
                          const float *y, int64_t rows, float *out, kg::ParallelFor parallel_for,
                          void *owner, int64_t threads);
KG_API void kg_feed_forward(const kg::Block *block, float epsilon, const float *x, int64_t rows, float *out,
                            kg::ParallelFor parallel_for, void *owner, int64_t threads);
KG_API void kg_decoder_block(const kg::Block *block, const kg::Rules *rules, const kg::Tokens *tokens,
                             const float *x, const kg::Cache *cache, float *out,
                             kg::ParallelFor parallel_for, void *owner, int64_t threads);
