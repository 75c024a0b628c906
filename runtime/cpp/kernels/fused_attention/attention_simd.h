// FusedAttention for a vector type V of one ISA.
//
// Packed keys are tiles of 2 * V::kLanes keys, [D][2 * kLanes] each, so that both products are of
// one kind: a few rows of factors, each broadcast, times rows of two vectors.
//
//   scores[r][keys of a tile] = query[r][d] * tile[d][keys]       summed over d
//   mixed[r][d of two vectors] += weight[r][j] * values[j][d]     summed over j
//
// Rows of factors and of sums are kRowFloats apart: the distances are part of the instructions.
//
// Internal linkage throughout: only translation units built for an ISA include this.
#pragma once

#include <math.h>
#include <string.h>

#include "fused_attention.h"

#define BITFOLD_UNROLL _Pragma("GCC unroll 16")

namespace bitfold {
namespace {

inline int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// exp(x) for x up to 89: Cody and Waite's reduction and, on |r| <= ln(2)/2, the minimax polynomial
// 1 + r + r^2 q(r) of degree 5, whose relative error is 1.05e-7.  NaN stays NaN, and minus
// infinity gives 0.
template <class V>
inline typename V::Vector exp_of(typename V::Vector x) {
  x = V::max(V::set(-104.0f), x);
  const typename V::Vector n = V::round(V::mul(x, V::set(0x1.715476p+0f)));
  typename V::Vector r = V::fnma(n, V::set(0x1.62e4p-1f), x);
  r = V::fnma(n, V::set(0x1.7f7d1cp-20f), r);
  typename V::Vector p = V::set(0x1.1061ccp-7f);
  p = V::fma(p, r, V::set(0x1.572a5ep-5f));
  p = V::fma(p, r, V::set(0x1.5557bp-3f));
  p = V::fma(p, r, V::set(0x1.fffdfcp-2f));
  p = V::fma(p, r, V::set(1.0f));
  p = V::fma(p, r, V::set(1.0f));
  return V::scale(p, n);
}

// C[R][NV vectors] = or += A[R][count] * B[count][NV vectors]; of the last
// vector of a row of B, only `lanes` where MASKED.
template <class V, int R, int NV, bool MASKED>
void product(const float* a, const float* b, int64_t b_stride, int64_t count, int64_t lanes,
             bool add, float* c) {
  typename V::Vector acc[R][NV];
  const typename V::Mask mask = V::first(MASKED ? lanes : V::kLanes);
  BITFOLD_UNROLL
  for (int r = 0; r < R; r++)
    BITFOLD_UNROLL
    for (int v = 0; v < NV; v++)
      acc[r][v] = add ? V::load(c + r * kRowFloats + v * V::kLanes) : V::set(0);
  for (int64_t k = 0; k < count; k++, b += b_stride) {
    typename V::Vector row[NV];
    BITFOLD_UNROLL
    for (int v = 0; v < NV; v++)
      row[v] = MASKED && v == NV - 1 ? V::load_masked(b + v * V::kLanes, mask)
                                     : V::load(b + v * V::kLanes);
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) {
      const typename V::Vector factor = V::set(a[k + r * kRowFloats]);
      BITFOLD_UNROLL
      for (int v = 0; v < NV; v++) acc[r][v] = V::fma(factor, row[v], acc[r][v]);
    }
  }
  BITFOLD_UNROLL
  for (int r = 0; r < R; r++)
    BITFOLD_UNROLL
    for (int v = 0; v < NV; v++) V::store(c + r * kRowFloats + v * V::kLanes, acc[r][v]);
}

typedef void (*Product)(const float* a, const float* b, int64_t b_stride, int64_t count,
                        int64_t lanes, bool add, float* c);

// One for each number of rows.
template <class V, int R = V::kRows>
struct Products : Products<V, R - 1> {
  constexpr Products() {
    this->two[R] = product<V, R, 2, false>;
    this->two_masked[R] = product<V, R, 2, true>;
    this->one_masked[R] = product<V, R, 1, true>;
  }
};
template <class V>
struct Products<V, 0> {
  Product two[V::kRows + 1] = {}, two_masked[V::kRows + 1] = {}, one_masked[V::kRows + 1] = {};
};
template <class V>
constexpr Products<V> kProducts{};

// Scratch of a task.
template <class V>
struct Work {
  float* scores;          // [rows][kRowFloats]
  float* dots;            // [kLanes][kLanes], each to be summed
  float* queries;         // [blocks][rows][kRowFloats], turned and scaled
  SoftmaxState* states;   // [blocks]

  static constexpr int64_t kBlock = kMaxBlock * kRowFloats;
  static constexpr int64_t kFloats =
      kBlock + V::kLanes * V::kLanes +
      kBlocksAtOnce * (kBlock + static_cast<int64_t>(sizeof(SoftmaxState) / sizeof(float)));
  explicit Work(float* at)
      : scores(at),
        dots(scores + kBlock),
        queries(dots + V::kLanes * V::kLanes),
        states(reinterpret_cast<SoftmaxState*>(queries + kBlocksAtOnce * kBlock)) {}
};

template <class V>
int64_t scratch_floats(const Attention*) {
  return Work<V>::kFloats;
}

inline void rotate(const float* x, const float* cos, const float* sin, int64_t head,
                   bool interleaved, float* out) {
  const int64_t half = head / 2;
  float turned[kMaxHead];
  if (interleaved) {
    for (int64_t i = 0; i < half; i++) {
      turned[2 * i] = x[2 * i] * cos[i] - x[2 * i + 1] * sin[i];
      turned[2 * i + 1] = x[2 * i] * sin[i] + x[2 * i + 1] * cos[i];
    }
  } else {
    for (int64_t i = 0; i < half; i++) {
      turned[i] = x[i] * cos[i] - x[i + half] * sin[i];
      turned[i + half] = x[i] * sin[i] + x[i + half] * cos[i];
    }
  }
  memcpy(out, turned, head * sizeof(float));
}

// out[count] = x[count] * by, and zeros up to a whole vector where PADDED.
template <class V, bool PADDED>
inline void scale_row(const float* x, float by, int64_t count, float* out) {
  const typename V::Vector factor = V::set(by);
  int64_t d = 0;
  for (; d + V::kLanes <= count; d += V::kLanes) V::store(out + d, V::mul(V::load(x + d), factor));
  if (d == count) return;
  const typename V::Mask rest = V::first(count - d);
  const typename V::Vector last = V::mul(V::load_masked(x + d, rest), factor);
  if (PADDED) {
    V::store(out + d, last);
  } else {
    V::store_masked(out + d, rest, last);
  }
}

// Walks over a block's rows: the query and head of each.
struct RowWalk {
  int64_t query, head, first, end;
  RowWalk(const Attention* a, const QueryBlock* block)
      : query(block->first / group_of(a)),
        head(block->kv * group_of(a) + block->first % group_of(a)),
        first(block->kv * group_of(a)),
        end(first + group_of(a)) {}
  void next() {
    if (++head < end) return;
    head = first;
    query++;
  }
};

// The rows' query heads, turned to their positions, scaled, and zeros up to a whole vector.
template <class V>
void gather_queries(const Attention* a, const QueryBlock* block, float* queries) {
  RowWalk row(a, block);
  const int64_t begin = start_of(a, block->b);
  for (int32_t r = 0; r < block->rows; r++, row.next(), queries += kRowFloats) {
    const float* x = query_at(a, block->b, row.query, row.head);
    // Heads of neighbouring tokens are too far apart for the CPU to see them coming.
    const float* ahead = x + (block->rows * kBlocksAtOnce / group_of(a) + 1) * a->query_stride;
    for (int64_t d = 0; d < a->head; d += 16) __builtin_prefetch(ahead + d);
    if (a->cos) {
      const int64_t angles = (begin + row.query) * (a->head / 2);
      rotate(x, a->cos + angles, a->sin + angles, a->head, a->interleaved, queries);
      x = queries;
    }
    scale_row<V, true>(x, a->scale, a->head, queries);
  }
}

template <class V>
int64_t packed_floats(const Attention* a) {
  int64_t most = 0;
  for (int64_t b = 0; b < a->batch; b++) most = keys_of(a, b) > most ? keys_of(a, b) : most;
  return padded(most, 2 * V::kLanes) * a->head;
}

template <class V>
void pack(const Attention* a, int64_t b, int64_t kv, int64_t first, int64_t last, float* packed) {
  const HeadRows keys = keys_at(a, b, kv);
  const int64_t head = a->head;
  for (int64_t j = first; j < last; j += V::kLanes) {
    const int64_t tile = j / (2 * V::kLanes);
    float* to = packed + tile * 2 * V::kLanes * head + j % (2 * V::kLanes);
    const int64_t count = last - j < V::kLanes ? last - j : V::kLanes;
    for (int64_t d = 0; d < head; d += V::kLanes) {
      const int64_t lanes = head - d < V::kLanes ? head - d : V::kLanes;
      V::transpose(keys.first + j * keys.stride + d, keys.stride, count, lanes,
                   to + d * 2 * V::kLanes, 2 * V::kLanes);
    }
  }
  // The tile's second half, if no key is in it: anything finite.
  if (padded(last, V::kLanes) % (2 * V::kLanes)) {
    float* to = packed + padded(last, V::kLanes) / (2 * V::kLanes) * 2 * V::kLanes * head;
    for (int64_t d = 0; d < head; d++) V::store(to + (2 * d + 1) * V::kLanes, V::set(0));
  }
}

// Scores of keys [first, first + count) from packed keys; whole tiles are written.
template <class V>
void packed_scores(const Attention* a, const QueryBlock* block, const float* queries,
                   const float* packed, int64_t first, int64_t count, float* scores) {
  const Product multiply = kProducts<V>.two[block->rows];
  const int64_t tile = 2 * V::kLanes;
  packed += first * a->head;
  for (int64_t j = 0; j < count; j += tile, packed += tile * a->head)
    multiply(queries, packed, tile, a->head, 0, false, scores + j);
}

// The same from keys as they are; whole vectors are written.
template <class V>
void plain_scores(const Attention* a, const QueryBlock* block, int64_t first, int64_t count,
                  const Work<V>& work) {
  const HeadRows keys = keys_at(a, block->b, block->kv);
  const float* key = keys.first + first * keys.stride;
  const typename V::Mask rest = V::first((a->head - 1) % V::kLanes + 1);
  const int64_t whole = (a->head - 1) / V::kLanes * V::kLanes;
  // At each token of a decoder they come from memory: fetch the values while keys are multiplied.
  const HeadRows values = values_at(a, block->b, block->kv);
  const float* value = values.first + first * values.stride;
  for (int64_t j = 0; j < count; j += V::kLanes, key += V::kLanes * keys.stride) {
    const int64_t here = count - j < V::kLanes ? count - j : V::kLanes;
    for (int64_t each = 0; each < here; each++, value += values.stride) {
      const float* ahead = key + (V::kLanes + each) * keys.stride;
      for (int64_t d = 0; d < a->head; d += 16) {
        __builtin_prefetch(ahead + d);
        __builtin_prefetch(value + d);
      }
    }
    for (int32_t r = 0; r < block->rows; r++) {
      const float* query = work.queries + r * kRowFloats;
      const float* row = key;
      for (int64_t each = 0; each < here; each++, row += keys.stride) {
        typename V::Vector sum =
            V::mul(V::load(query + whole), V::load_masked(row + whole, rest));
        for (int64_t d = 0; d < whole; d += V::kLanes)
          sum = V::fma(V::load(query + d), V::load(row + d), sum);
        V::store(work.dots + each * V::kLanes, sum);
      }
      V::store(work.scores + r * kRowFloats + j, V::sum_each(work.dots));
    }
  }
}

// Turn one row's scores of keys [0, count), of which it sees `seen`, into weights
// exp(score - most); take what the chunks before gave down to the new largest score.
template <class V>
void soften(const Attention* a, const float* mask, int64_t count, int64_t seen, int64_t padded_head,
            float* scores, SoftmaxState* state, int32_t r) {
  typedef typename V::Vector Vector;
  if (seen < 0) seen = 0;
  if (seen > count) seen = count;
  const Vector none = V::set(-INFINITY);
  Vector most = none;
  int64_t j = 0;
  if (!mask && a->softcap == 0) {
    Vector two = none;
    for (; j + 2 * V::kLanes <= seen; j += 2 * V::kLanes) {
      most = V::max(most, V::load(scores + j));
      two = V::max(two, V::load(scores + j + V::kLanes));
    }
    most = V::max(most, two);
  }
  const Vector cap = V::set(a->softcap), slope = V::set(a->softcap != 0 ? 2 / a->softcap : 0);
  for (; j < seen; j += V::kLanes) {
    const bool whole = j + V::kLanes <= seen;
    const typename V::Mask within = V::first(whole ? V::kLanes : seen - j);
    Vector s = V::load(scores + j);
    if (a->softcap != 0) {  // tanh(x / cap) = 1 - 2 / (1 + exp(2x / cap))
      const Vector e = exp_of<V>(V::min(V::set(80), V::mul(s, slope)));
      s = V::mul(cap, V::sub(V::set(1), V::div(V::set(2), V::add(e, V::set(1)))));
    }
    if (mask)
      s = V::add(s, a->mask_key ? V::load_masked(mask + j, within) : V::set(*mask));
    if (!whole) s = V::select(within, s, none);
    if (mask || !whole || a->softcap != 0) V::store(scores + j, s);
    most = V::max(most, s);
  }
  float top = V::most(most);
  if (!(top > state->most[r])) top = state->most[r];
  const float above = top == -INFINITY ? 0 : top;
  const float before = state->most[r];
  state->most[r] = top;
  const Vector from = V::set(above);
  Vector sum = V::set(0);
  for (j = 0; j < seen; j += V::kLanes) {
    const Vector weight = exp_of<V>(V::sub(V::load(scores + j), from));
    V::store(scores + j, weight);
    sum = V::add(sum, weight);
  }
  for (; j < count; j += V::kLanes) V::store(scores + j, V::set(0));
  // Before the first chunk, and after scores that were all minus infinity, there is nothing yet.
  const float factor = before == -INFINITY || before == top ? 1 : expf(before - above);
  state->sum[r] = state->sum[r] * factor + V::total(sum);
  if (factor == 1) return;
  const Vector by = V::set(factor);
  for (int64_t d = 0; d < padded_head; d += V::kLanes)
    V::store(state->mixed[r] + d, V::mul(V::load(state->mixed[r] + d), by));
}

template <class V>
void start(const Attention* a, int32_t rows, SoftmaxState* state) {
  for (int32_t r = 0; r < rows; r++) {
    state->most[r] = -INFINITY;
    state->sum[r] = 0;
    for (int64_t d = 0; d < a->head; d += V::kLanes) V::store(state->mixed[r] + d, V::set(0));
  }
}

// Take one chunk of keys into `state`: [first, first + count), whose scores are there.
template <class V>
void take_chunk(const Attention* a, const QueryBlock* block, int64_t first, int64_t count,
                const Work<V>& work, SoftmaxState* state) {
  const int64_t head = a->head, step = 2 * V::kLanes;
  RowWalk row(a, block);
  for (int32_t r = 0; r < block->rows; r++, row.next()) {
    const float* mask = mask_at(a, block->b, row.query, row.head);
    soften<V>(a, mask ? mask + first * a->mask_key : nullptr, count,
              seen_by(a, block->b, row.query) - first, padded(head, V::kLanes),
              work.scores + r * kRowFloats, state, r);
  }
  const HeadRows values = values_at(a, block->b, block->kv);
  const float* from = values.first + first * values.stride;
  for (int64_t d = 0; d < head; d += step) {
    const int64_t left = head - d, lanes = (left - 1) % V::kLanes + 1;
    const Product multiply = (left >= step              ? kProducts<V>.two
                              : left > V::kLanes ? kProducts<V>.two_masked
                                                 : kProducts<V>.one_masked)[block->rows];
    multiply(work.scores, from + d, values.stride, count, lanes, true, state->mixed[0] + d);
  }
}

// How many keys a block sees: as many as its last query.
inline int64_t seen_by_block(const Attention* a, const QueryBlock* block) {
  return seen_by(a, block->b, (block->first + block->rows - 1) / group_of(a));
}

template <class V>
void write_block(const Attention* a, const QueryBlock* block, const SoftmaxState* state) {
  RowWalk row(a, block);
  for (int32_t r = 0; r < block->rows; r++, row.next()) {
    const float inverse = state->sum[r] == 0 ? 0 : 1 / state->sum[r];
    scale_row<V, false>(state->mixed[r], inverse, a->head,
                        output_at(a, block->b, row.query, row.head));
  }
}

template <class V>
void attend(const Attention* a, const QueryBlock* blocks, int64_t count, const float* packed,
            float* scratch) {
  const Work<V> work(scratch);
  for (int64_t i = 0; i < count; i++) {
    gather_queries<V>(a, blocks + i, work.queries + i * work.kBlock);
    start<V>(a, blocks[i].rows, work.states + i);
  }
  const int64_t most = seen_by_block(a, blocks + count - 1);
  for (int64_t first = 0; first < most; first += kChunkKeys) {
    for (int64_t i = 0; i < count; i++) {
      const int64_t left = seen_by_block(a, blocks + i) - first;
      if (left <= 0) continue;
      const int64_t keys = left < kChunkKeys ? left : kChunkKeys;
      packed_scores<V>(a, blocks + i, work.queries + i * work.kBlock, packed, first, keys,
                       work.scores);
      take_chunk<V>(a, blocks + i, first, keys, work, work.states + i);
    }
  }
  for (int64_t i = 0; i < count; i++) write_block<V>(a, blocks + i, work.states + i);
}

template <class V>
void attend_chunk(const Attention* a, const QueryBlock* block, int64_t chunk, SoftmaxState* state,
                  float* scratch) {
  const Work<V> work(scratch);
  start<V>(a, block->rows, state);
  const int64_t first = chunk * kFewRowsKeys;
  const int64_t seen = seen_by_block(a, block);
  if (seen <= first) return;
  const int64_t count = seen - first < kFewRowsKeys ? seen - first : kFewRowsKeys;
  gather_queries<V>(a, block, work.queries);
  plain_scores<V>(a, block, first, count, work);
  take_chunk<V>(a, block, first, count, work, state);
}

}  // namespace
}  // namespace bitfold
