// The steps of a decoder block, on any number of rows of float32 activations.
//
// B batch rows, T tokens of each, D width, N query heads, K key heads, H head width, F feed-forward
// width, S slots of a cache.
#pragma once
#include "product.h"

namespace kg {

struct Rules {
  int64_t query_heads, key_heads, head_dim;
  int64_t window; // tokens a query looks back on, itself included; 0: all
  float scale;
  float soft_cap; // 0: none
  float rope_base, rope_scaling;
  float epsilon;
};

struct Block {
  Packed qkv;     // [(N + 2K) * H, D]
  Packed output;  // [D, N * H]
  Packed gate_up; // [2F, D]: the gate's rows, then the other branch's
  Packed down;    // [D, F]
  // Weights of norms, less one; null where the model has none.
  const float *pre_attention_norm, *query_norm, *key_norm, *post_attention_norm, *pre_ffw_norm,
      *post_ffw_norm;
};

// Keys and values of a layer. Token n of a row lies in slot n mod S; a slot also knows its token's place
// in the document and the document's number, -1 while it is empty.
struct Cache {
  void *keys, *values;             // BSKH, float32 or bfloat16
  int32_t *index, *segment;        // BS
  int32_t *stored;                 // B, tokens written so far
  int64_t slots, bfloat16;
};

struct Tokens {
  int64_t batch, tokens;
  const int32_t *index, *segment; // BT; segment 0 is padding, which is not remembered
};

// out = norm(x) times the weights, capped where `cap` is not 0.
void norm_product(const Packed &weights, const float *norm, float epsilon, float cap, const float *x,
                  int64_t rows, float *out, const Pool &pool);

// Normalizes and turns queries and keys of qkv, writes keys and values to the cache, and attends. Tokens of
// a row go one after another: what a ring forgets for one of them is out of its window.
void attend(const Rules &rules, const float *query_norm, const float *key_norm, const Tokens &tokens,
            const float *qkv, const Cache &cache, float *out, const Pool &pool);

// out = x + [norm of] the product of y and the weights; `norm` may be null.
void add_product(const Packed &weights, const float *norm, float epsilon, const float *x, const float *y,
                 int64_t rows, float *out, const Pool &pool);

void feed_forward(const Block &block, float epsilon, const float *x, int64_t rows, float *out, const Pool &pool);

// Padding comes out as zeros, and costs next to nothing.
void decoder_block(const Block &block, const Rules &rules, const Tokens &tokens, const float *x,
                   const Cache &cache, float *out, const Pool &pool);

// Cosines, then sines, of the angles of a token at `index`: H numbers, good until the thread's next call.
const float *rope_angles(int32_t index, int64_t head_dim, float base, float scaling);

} // namespace kg
