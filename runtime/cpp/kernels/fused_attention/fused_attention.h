// FusedAttention's kernels: what an ISA provides, and the driver.  Plain data: ISA files include
// this.
//
// A K/V head serves H / Hkv query heads.  Its queries are rows, `row = query * group + head of
// the group`: one K/V head of one batch entry has S * group rows, which go over the kernels in
// blocks.  Keys go over them in chunks of kChunkKeys: scores of a block and a chunk, their softmax
// against the largest score so far, their products with the values (Dao et al., arXiv 2205.14135).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bitfold {

constexpr int64_t kChunkKeys = 256;
constexpr int64_t kFewRowsKeys = 128;  // a chunk's, where there are few rows
constexpr int64_t kMaxHead = 256;  // the largest head size
constexpr int64_t kMaxBlock = 12;  // the most rows of a block, over all ISAs
// From row to row of a block's queries, scores and sums: beyond 256, so that rows do not all fall
// in the same cache sets.
constexpr int64_t kRowFloats = 272;
// So many blocks go over a chunk of keys while it is in a cache.
constexpr int64_t kBlocksAtOnce = 4;

struct Attention {
  int64_t batch, queries;         // B, S
  int64_t heads, kv_heads, head;  // H, Hkv, D
  int64_t added;                  // new keys N
  int64_t past, present;          // keys that the caches have room for: P, L
  float scale, softcap;           // softcap: 0 for none
  bool causal, interleaved;
  // Of query, key and value: floats from token to token; heads lie side by side.
  int64_t query_stride, key_stride, value_stride;
  const float *query, *key, *value;
  // [B][Hkv][P][D], or null.
  const float *past_key, *past_value;
  // [B][Hkv][L][D], or null; may be the past ones themselves.
  float *present_key, *present_value;
  const int64_t* lengths;  // [B] or null
  const float *cos, *sin;  // [positions][D/2] or null
  // Additive mask, null for none; floats from one to the next of each axis, 0 where broadcast.
  const float* mask;
  int64_t mask_batch, mask_head, mask_query, mask_key;
  float* y;  // [B][S][H * D]
};

// Query heads of a K/V head.
static inline int64_t group_of(const Attention* a) { return a->heads / a->kv_heads; }
static inline int64_t rows_of(const Attention* a) { return a->queries * group_of(a); }

// Where batch entry b's new keys begin, and how many keys it has with them.
static inline int64_t start_of(const Attention* a, int64_t b) {
  if (!a->lengths) return a->past;
  const int64_t start = a->lengths[b] - a->added;
  return start > 0 ? start : 0;
}
static inline int64_t keys_of(const Attention* a, int64_t b) {
  return a->lengths ? a->lengths[b] : a->past + a->added;
}

// How many keys query i of batch entry b sees: the first ones.
static inline int64_t seen_by(const Attention* a, int64_t b, int64_t i) {
  const int64_t keys = keys_of(a, b);
  if (!a->causal) return keys;
  const int64_t reach = start_of(a, b) + i + 1;
  return reach < keys ? reach : keys;
}

// Keys or values of one batch entry and K/V head: `first` + j * stride.
struct HeadRows {
  const float* first;
  int64_t stride;
};

static inline HeadRows rows_at(const float* present, const float* past, const float* added,
                           int64_t added_stride, const Attention* a, int64_t b, int64_t kv) {
  const int64_t entry = b * a->kv_heads + kv;
  if (present) return {present + entry * a->present * a->head, a->head};
  if (past) return {past + entry * a->past * a->head, a->head};
  return {added + b * a->added * added_stride + kv * a->head, added_stride};
}
static inline HeadRows keys_at(const Attention* a, int64_t b, int64_t kv) {
  return rows_at(a->present_key, a->past_key, a->key, a->key_stride, a, b, kv);
}
static inline HeadRows values_at(const Attention* a, int64_t b, int64_t kv) {
  return rows_at(a->present_value, a->past_value, a->value, a->value_stride, a, b, kv);
}

static inline const float* query_at(const Attention* a, int64_t b, int64_t i, int64_t h) {
  return a->query + (b * a->queries + i) * a->query_stride + h * a->head;
}
static inline float* output_at(const Attention* a, int64_t b, int64_t i, int64_t h) {
  return a->y + ((b * a->queries + i) * a->heads + h) * a->head;
}
static inline const float* mask_at(const Attention* a, int64_t b, int64_t i, int64_t h) {
  if (!a->mask) return nullptr;
  return a->mask + b * a->mask_batch + h * a->mask_head + i * a->mask_query;
}

// Some rows of one K/V head of one batch entry.
struct QueryBlock {
  int64_t b, kv, first;
  int32_t rows;
};

// What is known of a block's rows after some chunks of keys: the largest score, the sum of
// exp(score - largest), and that sum weighted with the values.
struct SoftmaxState {
  float most[kMaxBlock], sum[kMaxBlock];
  float mixed[kMaxBlock][kRowFloats];
};

struct AttentionKernels {
  const char* isa;
  int32_t block_rows;
  // Up to this many rows keys are read as they are, once; above, they are packed first.
  int32_t few_rows;
  // out[D]: x[D] turned to a position, whose cosines and sines [D/2] these are; may be in place.
  void (*rotate)(const float* x, const float* cos, const float* sin, int64_t head,
                 bool interleaved, float* out);
  // Floats of the packed keys of one K/V head of one batch entry.
  int64_t (*packed_floats)(const Attention* a);
  // Pack keys `first` to `last` into their places; `first` is a multiple of kChunkKeys.
  void (*pack)(const Attention* a, int64_t b, int64_t kv, int64_t first, int64_t last,
               float* packed);
  // Floats of scratch that `attend` and `attend_chunk` need.
  int64_t (*scratch_floats)(const Attention* a);
  // The outputs of up to kBlocksAtOnce neighbouring blocks.
  void (*attend)(const Attention* a, const QueryBlock* blocks, int64_t count, const float* packed,
                 float* scratch);
  // What one chunk of kFewRowsKeys keys contributes to a block of few rows.
  void (*attend_chunk)(const Attention* a, const QueryBlock* block, int64_t chunk, SoftmaxState* state,
                       float* scratch);
};

extern const AttentionKernels kAttentionRef;
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512Vnni;

// Calls fn(data, i) for i below count, in any order and on any threads.
typedef void (*ParallelFor)(void* context, void (*fn)(void*, size_t), void* data, size_t count);

// Computes y and the present caches; false when there is no memory.
bool run_attention(const AttentionKernels* kernels, const Attention& a,
                   ParallelFor parallel, void* context);

}  // namespace bitfold
