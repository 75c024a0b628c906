// A single row of int8 activations on AVX-512 VNNI: a weight is read once, and little else is done.
//
// Internal linkage throughout: a translation unit for each set of instructions includes this.
//
// From a cache four tiles go side by side, so that an activation broadcast once is multiplied by
// all.  From memory one tile follows the other: a single run of bytes is read faster than four
// runs that alternate.

#pragma once

#include <utility>

#include "avx512.h"
#include "matmul_avx512.h"
#include "raised_avx512.h"

namespace bitfold {
namespace {

// Sums of a tile: as many for each raise of its operands, one or, where a single tile's products
// would wait for one another, up to four in all.
template <int BITS, bool TABLE, int NT>
struct Sums {
  static constexpr const int (&kRaises)[kSteps] = RaisedOperands<BITS, TABLE>::raises();
  static constexpr int kDistinct = raises_before(kRaises, kSteps);
  static constexpr int kEach = NT == 1 && kDistinct < 4 ? 4 / kDistinct : 1;
  static constexpr int kCount = kEach * kDistinct;
  static constexpr int of(int step) {
    const int first = first_of(kRaises, step);
    int before = 0;
    for (int i = first; i < step; i++) before += kRaises[i] == kRaises[step];
    return raises_before(kRaises, first) * kEach + before % kEach;
  }
  static constexpr int raise_of(int sum) {
    int step = 0;
    while (of(step) != sum) step++;
    return kRaises[step];
  }
};

// How many bytes ahead weights are fetched: into L2 from memory; into L1 from a cache.
constexpr int64_t kAhead = 8 << 10, kNear = 512;

template <int BITS, bool TABLE, int NT, int STEP>
BITFOLD_INLINE void step(__m512i (&acc)[Sums<BITS, TABLE, NT>::kCount], const Half<BITS>& half,
                         __m512i a, const RaisedOperands<BITS, TABLE>& operands) {
  constexpr int kSum = Sums<BITS, TABLE, NT>::of(STEP);
  add_products(acc[kSum], operands.template at<STEP>(half), a);
}

template <int BITS, bool TABLE, int NT, int HALF>
BITFOLD_INLINE void half_chunk(__m512i (&acc)[NT][Sums<BITS, TABLE, NT>::kCount],
                               const uint8_t* chunk, int64_t stride, const int32_t* q,
                               const RaisedOperands<BITS, TABLE>& operands) {
  __m512i a[4];
  BITFOLD_UNROLL
  for (int s = 0; s < 4; s++) a[s] = _mm512_set1_epi32(q[s]);
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++) {
    const Half<BITS> half = half_at<BITS, HALF>(chunk + t * stride);
    step<BITS, TABLE, NT, 4 * HALF>(acc[t], half, a[0], operands);
    step<BITS, TABLE, NT, 4 * HALF + 1>(acc[t], half, a[1], operands);
    step<BITS, TABLE, NT, 4 * HALF + 2>(acc[t], half, a[2], operands);
    step<BITS, TABLE, NT, 4 * HALF + 3>(acc[t], half, a[3], operands);
  }
}

// What a group's first sum begins with.
template <int BITS, bool TABLE>
BITFOLD_INLINE __m512i raised_start(const Block* b, int32_t group) {
  return _mm512_set1_epi32(b->start[group] * (1 << RaisedOperands<BITS, TABLE>::raises()[0]));
}

// A tile's sums from number SUM on, each brought back to its place, in one.
template <int BITS, bool TABLE, int NT, int SUM = 0>
BITFOLD_INLINE __m512i gathered(const __m512i (&acc)[Sums<BITS, TABLE, NT>::kCount]) {
  typedef Sums<BITS, TABLE, NT> Of;
  __m512i sum = acc[SUM];
  BITFOLD_UNROLL
  for (int i = 1; i < Of::kEach; i++) sum = _mm512_add_epi32(sum, acc[SUM + i]);
  constexpr int kRaise = Of::raise_of(SUM);
  if constexpr (kRaise > 0) sum = _mm512_srai_epi32(sum, kRaise);
  if constexpr (SUM + Of::kEach < Of::kCount)
    sum = _mm512_add_epi32(sum, gathered<BITS, TABLE, NT, SUM + Of::kEach>(acc));
  return sum;
}

// Fetch weights that are needed soon: a tile alone comes from memory; of four, from a cache, the
// processor itself sees what follows but for the next four, which lie behind their end.
template <int BITS, int NT>
BITFOLD_INLINE void fetch_ahead(const uint8_t* bytes, const uint8_t* end, int64_t stride) {
  if (NT == 1) {
    BITFOLD_UNROLL
    for (int line = 0; line < BITS; line++)
      _mm_prefetch((const char*)(bytes + line * kLine + kAhead), _MM_HINT_T1);
  } else if (bytes + kNear >= end) {
    const uint8_t* at = bytes + kNear + (NT - 1) * stride;
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++)
      BITFOLD_UNROLL
      for (int line = 0; line < BITS; line++)
        _mm_prefetch((const char*)(at + t * stride + line * kLine), _MM_HINT_T0);
  }
}

// The sums of group g of a tile, added to its total.
template <bool F16>
BITFOLD_INLINE __m512 with_group(__m512 total, __m512i sum, const PackedWeight* w, const Block* b,
                                 int64_t tile, int32_t g, bool row_scales) {
  const int64_t at = tile * w->groups + g;
  const __m512 scale =
      F16 ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)w->scales + at)) : scales_at(w, at);
  __m512 part = _mm512_cvtepi32_ps(sum);
  if (w->zero_points)
    part = _mm512_fnmadd_ps(zeros_at(w->zero_points, at), _mm512_set1_ps(b->sum[g]), part);
  return add_group(total, part, scale, b->scale[g], row_scales);
}

// Sums [NT][16] of the tiles from `tile` on; a tile alone comes from memory.  F16: the scales are
// halves, as most are.  CHUNKS: groups are chunks, which saves the loops within them; else they are
// any multiple of 16.
template <int BITS, bool TABLE, bool F16, int NT, bool CHUNKS>
void dot_groups(const MatMul* op, const Block* b, int32_t tile, float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t stride = tile_bytes(w);
  const uint8_t* bytes = w->packed + tile * stride;
  const uint8_t* const end = bytes + stride;
  const int32_t* q = b->q;
  const RaisedOperands<BITS, TABLE> operands(w->operand);
  int64_t left = (w->k + 15) / 16, half = 0;  // 16-channel halves of chunks
  const int64_t group_halves = (w->group_size + 15) / 16;
  const bool row_scales = has_row_scales(op);
  __m512 total[NT] = {};
  for (int32_t g = 0; g < w->groups; g++) {
    __m512i acc[NT][Sums<BITS, TABLE, NT>::kCount] = {};
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++) acc[t][0] = raised_start<BITS, TABLE>(b, g);
    int64_t now = CHUNKS ? 2 : left < group_halves ? left : group_halves;
    left -= now;
    if (!CHUNKS && half) {  // the group begins in the middle of a chunk
      half_chunk<BITS, TABLE, NT, 1>(acc, bytes, stride, q, operands);
      bytes += BITS * kLine, q += 4, now--, half = 0;
    }
    for (; now >= 2; now -= 2) {
      fetch_ahead<BITS, NT>(bytes, end, stride);
      half_chunk<BITS, TABLE, NT, 0>(acc, bytes, stride, q, operands);
      half_chunk<BITS, TABLE, NT, 1>(acc, bytes, stride, q + 4, operands);
      bytes += BITS * kLine, q += kSteps;
    }
    if (!CHUNKS && now) {
      half_chunk<BITS, TABLE, NT, 0>(acc, bytes, stride, q, operands);
      q += 4, half = 1;
    }
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++)
      total[t] = with_group<F16>(total[t], gathered<BITS, TABLE, NT>(acc[t]), w, b, tile + t, g,
                                 row_scales);
  }
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++)
    _mm512_storeu_ps(sums + t * kTile, scaled(total[t], b->scale[0], row_scales));
}

template <int BITS, bool TABLE, bool F16, int NT>
void dot(const MatMul* op, const Block* b, int32_t tile, float* sums) {
  if (op->weight->group_size == kChunk)
    return dot_groups<BITS, TABLE, F16, NT, true>(op, b, tile, sums);
  dot_groups<BITS, TABLE, F16, NT, false>(op, b, tile, sums);
}

// The runs of 16 inputs of a row whose activations are not all zero: those of group g are run
// [first[g]] to run[first[g + 1]].
struct Live {
  const int32_t *first, *run;
};

Live live_runs(const PackedWeight* w, const int32_t* q, int32_t* scratch) {
  int32_t* const run = scratch + w->groups + 1;
  const int32_t runs = (int32_t)((w->k + 15) / 16), group_runs = (w->group_size + 15) / 16;
  int32_t count = 0;
  for (int32_t r = 0; r < runs; r++) {
    if (r % group_runs == 0) scratch[r / group_runs] = count;
    const __m128i four = _mm_loadu_si128((const __m128i*)(q + 4 * r));
    if (!_mm_testz_si128(four, four)) run[count++] = r;
  }
  scratch[w->groups] = count;
  return {scratch, run};
}

// How many runs ahead weights are fetched; behind a tile's last comes the next one's first.
constexpr int32_t kRunsAhead = 32;

// Sums [16] of one tile, of which the weights of live runs alone are read.
template <int BITS, bool TABLE>
void live_dot(const MatMul* op, const Block* b, int32_t tile, Live live, float* sums) {
  constexpr int kCount = Sums<BITS, TABLE, 1>::kCount;
  const PackedWeight* w = op->weight;
  const int64_t stride = tile_bytes(w);
  const uint8_t* const bytes = w->packed + tile * stride;
  const int32_t all = live.first[w->groups], ahead = all < kRunsAhead ? all : kRunsAhead;
  const RaisedOperands<BITS, TABLE> operands(w->operand);
  const bool row_scales = has_row_scales(op);
  __m512 total = _mm512_setzero_ps();
  for (int32_t g = 0; g < w->groups; g++) {
    if (live.first[g] == live.first[g + 1]) continue;
    __m512i acc[1][kCount] = {{raised_start<BITS, TABLE>(b, g)}};
    for (int32_t i = live.first[g]; i < live.first[g + 1]; i++) {
      const int32_t next = i + ahead, run = live.run[i];
      const uint8_t* at = bytes + (next < all ? 0 : stride) +
                          (int64_t)live.run[next < all ? next : next - all] * (BITS * kLine / 2);
      BITFOLD_UNROLL
      for (int byte = 0; byte < BITS * kLine / 2; byte += kLine)
        _mm_prefetch((const char*)at + byte, _MM_HINT_T0);
      const uint8_t* chunk = bytes + (int64_t)(run / 2) * BITS * kLine;
      if (run % 2)
        half_chunk<BITS, TABLE, 1, 1>(acc, chunk, stride, b->q + 4 * run, operands);
      else
        half_chunk<BITS, TABLE, 1, 0>(acc, chunk, stride, b->q + 4 * run, operands);
    }
    total = with_group<false>(total, gathered<BITS, TABLE, 1>(acc[0]), w, b, tile, g, row_scales);
  }
  // A row that is not finite has scales that are NaN, and no live runs.
  _mm512_storeu_ps(sums, scaled(total, b->scale[0], row_scales || all == 0));
}

typedef void (*LiveDot)(const MatMul* op, const Block* b, int32_t tile, Live live, float* sums);

typedef void (*RowDot)(const MatMul* op, const Block* b, int32_t tile, float* sums);

struct RowDots {
  RowDot one, four;  // tiles
  LiveDot live;
};

template <int BITS, bool TABLE, bool F16>
constexpr RowDots kRowDots = {dot<BITS, TABLE, F16, 1>, dot<BITS, TABLE, F16, 4>,
                              live_dot<BITS, TABLE>};

// Those of widths from 1 on.
template <bool TABLE, bool F16, int... WIDTH>
const RowDots* row_dots(std::integer_sequence<int, WIDTH...>) {
  static const RowDots kDots[] = {kRowDots<WIDTH + 1, TABLE, F16>...};
  return kDots;
}

const RowDots* row_dots_for(const PackedWeight* w) {
  const std::make_integer_sequence<int, 8> all;
  const std::make_integer_sequence<int, kWidestTable> tables;
  const bool f16 = w->scale_type == kScaleF16;
  const RowDots* dots = w->has_table
                            ? f16 ? row_dots<true, true>(tables) : row_dots<true, false>(tables)
                        : f16 ? row_dots<false, true>(all)
                              : row_dots<false, false>(all);
  return dots + w->bits - 1;
}

// Bytes for a list of live runs.
inline int64_t row_scratch(const MatMul* op) {
  return (op->weight->groups + 1 + (op->weight->k + 15) / 16) * (int64_t)sizeof(int32_t);
}

// Write the sums of a row's tiles, all of one part and whole, where there is no more to do than to
// add a bias and a residual: what `write_all` does, with less around it.  Returns whether it is so.
inline bool write_plain(const MatMul* op, int32_t tile, int32_t tiles, const float* sums) {
  if (op->activation != kIdentity || op->low_rank.rank) return false;
  const int64_t n = (int64_t)tile * kTile;
  const Part* part = part_of(op, n);
  if (n + tiles * kTile > part->first + part->columns) return false;
  float* y = part->y + n - part->first;
  for (int32_t i = 0; i < tiles * kTile; i += kTile) {
    const __m512 bias = op->bias ? _mm512_loadu_ps(op->bias + n + i) : _mm512_setzero_ps();
    __m512 v = _mm512_add_ps(_mm512_load_ps(sums + i), bias);
    if (op->residual) v = _mm512_add_ps(v, _mm512_loadu_ps(op->residual + n + i));
    _mm512_storeu_ps(y + i, v);
  }
  return true;
}

// Y for a single row.
void multiply_row(const MatMul* op, int32_t tile, int32_t tile1, uint8_t* scratch) {
  const RowDots* dots = row_dots_for(op->weight);
  const Block b = block_at(op, 0);
  alignas(64) float sums[4 * kTile];
  if (op->skips) {
    const Live live = live_runs(op->weight, b.q, (int32_t*)scratch);
    for (int32_t tiles; tile < tile1; tile += tiles) {
      tiles = tile1 - tile > 2 ? 2 : tile1 - tile;
      for (int32_t t = 0; t < tiles; t++) dots->live(op, &b, tile + t, live, sums + t * kTile);
      write_all(op, &b, tile, tiles, sums);
    }
    return;
  }
  while (tile < tile1) {
    int32_t tiles = tile1 - tile;
    if (tiles >= 4 && !op->streamed) {
      dots->four(op, &b, tile, sums);
      tiles = 4;
    } else {
      tiles = tiles > 2 ? 2 : tiles;  // SwiGLU needs both
      for (int32_t t = 0; t < tiles; t++) dots->one(op, &b, tile + t, sums + t * kTile);
    }
    if (!write_plain(op, tile, tiles, sums)) write_all(op, &b, tile, tiles, sums);
    tile += tiles;
  }
}

}  // namespace
}  // namespace bitfold
