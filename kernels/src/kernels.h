// What every instruction set provides, and how rows and panels meet.
//
// M rows of activations, K inputs, N outputs. A panel holds 32 outputs of a weight matrix, all K inputs
// of them, in the order in which a product reads them; a matrix is its panels one after another.
#pragma once
#include <cstddef>
#include <cstdint>

namespace kg {

// Those from KINDS on are no panels: a row per output, as an embedding table lies in its variable.
enum Kind { FLOAT32, BFLOAT16, INT8, INT8_CHANNEL, INT4, KINDS, FLOAT32_ROWS = KINDS, BFLOAT16_ROWS };

constexpr int PANEL = 32;       // outputs of a panel
constexpr int BLOCK = 32;       // inputs that share a scale
constexpr int ROWS_AT_ONCE = 8; // the most rows any product takes in one pass
constexpr int MOST_TILE_ROWS = 12;

// Activations as the products want them: float32, or int8 in blocks of 32 inputs. Integer kinds read
// q, scale and sum; sum corrects for weights stored with an offset.
struct Rows {
  const float *x;
  int64_t width; // of x and, rounded up to whole blocks, of q
  const int8_t *q;
  const float *scale;
  const int32_t *sum;
  int64_t blocks;
};

// Adds units [u0, u1) of one panel to `out`, rows `row`...; `panel` points at unit u0, and the first
// call writes instead of adding. The order of additions is by k alone, so that a row's result is the
// same bit for bit whatever rows it is computed with, and on every set with fused multiply-add.
using Product = void (*)(const Rows &rows, int64_t row, int64_t u0, int64_t u1, const uint8_t *panel,
                         float *out, int64_t stride, bool first);

// Rows given as [inputs][rows] times a float32 panel, or as many inputs of one: added to `out`, or written there
// by the first call. In the same order as `product` adds.
using Tile = void (*)(const float *x, int64_t inputs, const float *weights, float *out, int64_t stride, bool first);

// Rows one after another times `outputs` rows of weights, float32 or bfloat16, of as many inputs: dot products.
// Each is added up alike, whatever stands beside it.
using Dots = void (*)(const float *x, int64_t inputs, const uint8_t *weights, int64_t outputs, float *out,
                      int64_t stride);

struct Kernels {
  const char *name;
  Product product[KINDS][ROWS_AT_ONCE + 1]; // by number of rows; [0] is unused
  int group[KINDS];                         // the most rows that `product` has an entry for

  Tile tile[MOST_TILE_ROWS + 1]; // by number of rows; [0] is unused
  int tile_rows;                 // the most that `tile` has an entry for
  void (*widen)(const uint8_t *units, int64_t count, float *out); // of bfloat16 to float32 [inputs][32]

  Dots dots[2][ROWS_AT_ONCE + 1]; // of float32 and bfloat16 by number of rows; [0] is unused
  int dots_group;                 // the most rows that `dots` has an entry for

  void (*quantize)(const float *x, int64_t n, int8_t *q, float *scale, int32_t *sum);
  void (*rms_norm)(const float *x, const float *weight, float epsilon, float *out, int64_t n);
  void (*geglu)(const float *gate, const float *up, float *out, int64_t n);
  void (*soft_cap)(float *x, float cap, int64_t n);
  float (*softmax)(float *x, int64_t n); // to exponentials; returns their sum
  // Scores of `heads` queries against one key, and values weighted into `heads` outputs; keys and
  // values are float32, or bfloat16 in the second of each pair.
  void (*scores[2])(const float *q, int64_t heads, const void *key, int64_t n, float *out, int64_t stride);
  void (*mix[2])(const float *weights, int64_t heads, int64_t stride, const void *const *values, int count,
                 float *out, int64_t n);
};

const Kernels *portable_kernels();
const Kernels *avx2_kernels();
const Kernels *avx_vnni_kernels();
const Kernels *vnni_kernels();
const Kernels *avx512_kernels();
const Kernels *avx512_wide_kernels();
const Kernels *neon_kernels();
const Kernels *dotprod_kernels();

// The set in use, chosen at load: the best one the processor has, or the one that the environment
// variable KERAS_GEMMA_KERNELS_ISA names.
const Kernels &kernels();
bool use_kernels(const char *name);
const char *kernel_names(); // those this processor can run, best last, with commas between

} // namespace kg
