// Rope, the cache's write in place, and attention over what a token may see.
#include "block.h"
#include "half.h"
#include "scratch.h"
#include <cstring>

namespace kg {
namespace {

// Keys and values that make a piece of work worth another thread.
constexpr int64_t GRAIN = 128 * 1024;

void turn(const float *x, const float *angles, float factor, float *out, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i++) {
    const float a = x[i], b = x[half + i], cosine = angles[i], sine = angles[half + i];
    out[i] = (a * cosine - b * sine) * factor;
    out[half + i] = (b * cosine + a * sine) * factor;
  }
}

void store(const Cache &cache, void *array, int64_t at, const float *x, int64_t n) {
  if (!cache.bfloat16) {
    memcpy(static_cast<float *>(array) + at, x, (size_t)n * sizeof(float));
    return;
  }
  uint16_t *to = static_cast<uint16_t *>(array) + at;
  for (int64_t i = 0; i < n; i++) to[i] = float_to_bfloat16(x[i]);
}

const void *at(const Cache &cache, const void *array, int64_t place) {
  return static_cast<const char *>(array) + place * (cache.bfloat16 ? 2 : 4);
}

// One token of one batch row: its queries to `q`, its key and value to the cache, and the slots it sees to
// `slots`. Returns how many those are.
int64_t enter(const Kernels &k, const Rules &r, const float *query_norm, const float *key_norm, int64_t b,
              int32_t index, int32_t segment, const float *qkv, const Cache &cache, float *q, int32_t *slots) {
  const int64_t H = r.head_dim;
  const float *angles = rope_angles(index, H, r.rope_base, r.rope_scaling);
  float *room = scratch<float>(Use::rope, 2 * H), *turned = room + H;
  for (int64_t n = 0; n < r.query_heads; n++) {
    const float *head = qkv + n * H;
    if (query_norm) k.rms_norm(head, query_norm, r.epsilon, room, H), head = room;
    turn(head, angles, r.scale, q + n * H, H);
  }
  int32_t *places = cache.index + b * cache.slots, *segments = cache.segment + b * cache.slots;
  if (cache.stored[b] < 0) cache.stored[b] = 0; // or a slot would lie before the cache
  if (segment > 0) {
    const int64_t slot = cache.stored[b] % cache.slots;
    const float *keys = qkv + r.query_heads * H, *values = keys + r.key_heads * H;
    for (int64_t h = 0; h < r.key_heads; h++) {
      const int64_t place = ((b * cache.slots + slot) * r.key_heads + h) * H;
      const float *head = keys + h * H;
      if (key_norm) k.rms_norm(head, key_norm, r.epsilon, room, H), head = room;
      turn(head, angles, 1.f, turned, H);
      store(cache, cache.keys, place, turned, H);
      store(cache, cache.values, place, values + h * H, H);
    }
    places[slot] = index;
    segments[slot] = segment;
    cache.stored[b]++;
  }
  const int64_t filled = cache.stored[b] < cache.slots ? cache.stored[b] : cache.slots;
  int64_t count = 0;
  for (int64_t s = 0; s < filled; s++) {
    const int64_t distance = (int64_t)index - places[s];
    slots[count] = (int32_t)s;
    count += segment > 0 && segments[s] == segment && distance >= 0 && (!r.window || distance < r.window);
  }
  return count;
}

// `heads` queries that share key head `h` of batch row `b`.
void attend_heads(const Kernels &k, const Rules &r, const Cache &cache, int64_t b, int64_t h, int64_t heads,
                  const float *q, const int32_t *slots, int64_t count, float *out) {
  const int64_t H = r.head_dim;
  float *scores = scratch<float>(Use::scores, heads * count);
  auto place = [&](int64_t i) { return ((b * cache.slots + slots[i]) * r.key_heads + h) * H; };
  for (int64_t i = 0; i < count; i++)
    k.scores[cache.bfloat16](q, heads, at(cache, cache.keys, place(i)), H, scores + i, count);
  float total[64];
  memset(out, 0, (size_t)(heads * H) * sizeof(float)); // a token that sees nothing, padding, gets zeros
  if (r.soft_cap > 0) k.soft_cap(scores, r.soft_cap, heads * count);
  for (int64_t n = 0; n < heads; n++) total[n] = k.softmax(scores + n * count, count);
  for (int64_t i = 0; i < count; i += 4) {
    const int some = count - i < 4 ? (int)(count - i) : 4;
    const void *values[4];
    for (int j = 0; j < some; j++) values[j] = at(cache, cache.values, place(i + j));
    k.mix[cache.bfloat16](scores + i, heads, count, values, some, out, H);
  }
  for (int64_t n = 0; n < heads && count > 0; n++)
    for (int64_t i = 0; i < H; i++) out[n * H + i] /= total[n];
}

} // namespace

void attend(const Rules &r, const float *query_norm, const float *key_norm, const Tokens &tokens,
            const float *qkv, const Cache &cache, float *out, const Pool &pool) {
  const Kernels &k = kernels();
  const int64_t H = r.head_dim, group = r.query_heads / r.key_heads;
  const int64_t width = (r.query_heads + 2 * r.key_heads) * H, out_width = r.query_heads * H;
  float *q = scratch<float>(Use::queries, tokens.batch * out_width);
  int32_t *slots = scratch<int32_t>(Use::slots, tokens.batch * (cache.slots + 1));
  // Few rows with few key heads: the queries of a head are shared out too.
  int64_t parts = ceil_div(pool.threads, tokens.batch * r.key_heads);
  parts = parts < group ? parts : group;
  while (ceil_div(group, parts) > 64) parts++; // attend_heads has room for 64
  for (int64_t t = 0; t < tokens.tokens; t++) {
    int64_t seen = 0;
    for (int64_t b = 0; b < tokens.batch; b++) {
      const int64_t row = b * tokens.tokens + t;
      int32_t *list = slots + b * (cache.slots + 1);
      // The count stands before the list.
      list[0] = (int32_t)enter(k, r, query_norm, key_norm, b, tokens.index[row], tokens.segment[row],
                               qkv + row * width, cache, q + b * out_width, list + 1);
      seen += list[0];
    }
    const int64_t tasks = tokens.batch * r.key_heads * parts;
    const int64_t bytes = seen * r.key_heads * H * (cache.bfloat16 ? 4 : 8) * parts / tasks;
    parallel(pool, tasks, ceil_div(GRAIN, bytes + 1), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; task++) {
        const int64_t b = task / (r.key_heads * parts), h = task / parts % r.key_heads, part = task % parts;
        const int64_t from = group * part / parts, heads = group * (part + 1) / parts - from;
        const int64_t first = (h * group + from) * H, row = b * tokens.tokens + t;
        const int32_t *list = slots + b * (cache.slots + 1);
        attend_heads(k, r, cache, b, h, heads, q + b * out_width + first, list + 1, list[0],
                     out + row * out_width + first);
      }
    });
  }
}

} // namespace kg
