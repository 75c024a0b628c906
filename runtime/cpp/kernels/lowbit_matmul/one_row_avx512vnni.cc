// A single row of int8 activations on AVX-512 VNNI: a weight is read once, and little else is done.
//
// From a cache four tiles go side by side, so that an activation broadcast once is multiplied by
// all.  From memory one tile follows the other: a single run of bytes is read faster than four
// runs that alternate.

#include "avx512.h"
#include "matmul_avx512.h"

namespace bitfold {
namespace {

// Codes that lie side by side in a byte are multiplied where they lie: each field has sums of its
// own, 2**(BITS * field) times too large until the group's end.
template <int BITS, bool TABLE>
constexpr int kFields = !TABLE && (BITS == 4 || BITS == 2) ? 8 / BITS : 1;

// Sums of a tile: one for each field, and four at least where a single tile would be one chain of
// products that wait for one another.
template <int BITS, bool TABLE, int NT>
constexpr int kSums = NT == 1 && kFields<BITS, TABLE> < 4 ? 4 : kFields<BITS, TABLE>;

// How many bytes ahead weights are fetched: into L2 from memory, into L1 from a cache.
constexpr int64_t kAhead = 8 << 10, kNear = 1 << 10;

// The operand bytes of step S, shifted up by their field.
template <int BITS, bool TABLE, int S>
inline __attribute__((always_inline)) __m512i raised(const uint8_t* chunk, __m512i line,
                                                     const uint8_t* table) {
  constexpr int kCount = kFields<BITS, TABLE>;
  if (kCount == 1) return operands<BITS, TABLE, S>(chunk, table);
  return _mm512_and_si512(line,
                          _mm512_set1_epi8((char)(((1 << BITS) - 1) << S % kCount * BITS)));
}

template <int BITS, bool TABLE, int NT, int S>
inline __attribute__((always_inline)) void step(
    __m512i (&acc)[NT][kSums<BITS, TABLE, NT>], __m512i (&line)[NT], const uint8_t* chunk,
    int64_t stride, const int32_t* q, const uint8_t* table) {
  const __m512i a = _mm512_set1_epi32(*q);
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++) {
    if (kFields<BITS, TABLE> > 1 && S % kFields<BITS, TABLE> == 0) {
      line[t] = _mm512_loadu_si512(chunk + t * stride + S / kFields<BITS, TABLE> * kLine);
      asm("" : "+v"(line[t]));  // or GCC loads it again for each field
    }
    add_products(acc[t][S % kSums<BITS, TABLE, NT>],
                 raised<BITS, TABLE, S>(chunk + t * stride, line[t], table), a);
  }
}

template <int BITS, bool TABLE, int NT, int HALF>
inline __attribute__((always_inline)) void half_chunk(
    __m512i (&acc)[NT][kSums<BITS, TABLE, NT>], const uint8_t* chunk, int64_t stride,
    const int32_t* q, const uint8_t* table) {
  __m512i line[NT];
  step<BITS, TABLE, NT, 4 * HALF>(acc, line, chunk, stride, q, table);
  step<BITS, TABLE, NT, 4 * HALF + 1>(acc, line, chunk, stride, q + 1, table);
  step<BITS, TABLE, NT, 4 * HALF + 2>(acc, line, chunk, stride, q + 2, table);
  step<BITS, TABLE, NT, 4 * HALF + 3>(acc, line, chunk, stride, q + 3, table);
}

// A tile's sums, each brought back to its place, in one.
template <int BITS, bool TABLE, int COUNT>
inline __attribute__((always_inline)) __m512i gathered(const __m512i (&acc)[COUNT]) {
  constexpr int kCount = kFields<BITS, TABLE>;
  __m512i all = _mm512_setzero_si512();
  BITFOLD_UNROLL
  for (int field = 0; field < kCount; field++) {
    __m512i sum = acc[field];
    BITFOLD_UNROLL
    for (int more = field + kCount; more < COUNT; more += kCount)
      sum = _mm512_add_epi32(sum, acc[more]);
    all = field ? _mm512_add_epi32(all, _mm512_srai_epi32(sum, field * BITS)) : sum;
  }
  return all;
}

// Sums [NT][16] of the tiles from `tile` on; a tile alone comes from memory.
// F16: the scales are halves, as most are.
template <int BITS, bool TABLE, bool F16, int NT>
void dot(const MatMul* op, const Block* b, int32_t tile, float* sums) {
  constexpr int kCount = kSums<BITS, TABLE, NT>;
  const PackedWeight* w = op->weight;
  const int64_t stride = tile_bytes(w);
  const uint8_t* bytes = w->packed + tile * stride;
  const uint8_t* const end = bytes + stride;
  const __m256i* scales = (const __m256i*)w->scales + (int64_t)tile * w->groups;
  const int8_t* const zero_points = w->zero_points;
  const int32_t* q = b->q;
  int64_t left = (w->k + 15) / 16, half = 0;  // 16-channel halves of chunks
  const int64_t group_halves = (w->group_size + 15) / 16;
  __m512 total[NT];
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++) total[t] = _mm512_setzero_ps();

  for (int32_t g = 0; g < w->groups; g++) {
    __m512i acc[NT][kCount];
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++)
      BITFOLD_UNROLL
      for (int i = 0; i < kCount; i++)
        acc[t][i] = i ? _mm512_setzero_si512() : _mm512_set1_epi32(b->start[g]);
    int64_t now = left < group_halves ? left : group_halves;
    left -= now;
    if (half) {  // the group begins in the middle of a chunk
      half_chunk<BITS, TABLE, NT, 1>(acc, bytes, stride, q, w->operand);
      bytes += BITS * kLine, q += 4, now--, half = 0;
    }
    for (; now >= 2; now -= 2) {
      if (NT == 1) {
        BITFOLD_UNROLL
        for (int line = 0; line < BITS; line++)
          _mm_prefetch((const char*)(bytes + line * kLine + kAhead), _MM_HINT_T1);
      } else {  // behind the end of the four lie the next four
        const uint8_t* at = bytes + kNear + (bytes + kNear < end ? 0 : (NT - 1) * stride);
        BITFOLD_UNROLL
        for (int t = 0; t < NT; t++)
          BITFOLD_UNROLL
          for (int line = 0; line < BITS; line++)
            _mm_prefetch((const char*)(at + t * stride + line * kLine), _MM_HINT_T0);
      }
      half_chunk<BITS, TABLE, NT, 0>(acc, bytes, stride, q, w->operand);
      half_chunk<BITS, TABLE, NT, 1>(acc, bytes, stride, q + 4, w->operand);
      bytes += BITS * kLine, q += 8;
    }
    if (now) {
      half_chunk<BITS, TABLE, NT, 0>(acc, bytes, stride, q, w->operand);
      q += 4, half = 1;
    }
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++) {
      const int64_t at = (int64_t)(tile + t) * w->groups + g;
      const __m512 scale =
          F16 ? _mm512_cvtph_ps(_mm256_loadu_si256(scales + t * w->groups)) : scales_at(w, at);
      __m512 part = _mm512_cvtepi32_ps(gathered<BITS, TABLE>(acc[t]));
      if (zero_points)
        part = _mm512_fnmadd_ps(zeros_at(zero_points, at), _mm512_set1_ps(b->sum[g]), part);
      total[t] =
          _mm512_fmadd_ps(_mm512_mul_ps(part, scale), _mm512_set1_ps(b->scale[g]), total[t]);
    }
    scales++;
  }
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++) _mm512_storeu_ps(sums + t * kTile, total[t]);
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
  constexpr int kCount = kSums<BITS, TABLE, 1>;
  const PackedWeight* w = op->weight;
  const int64_t stride = tile_bytes(w);
  const uint8_t* const bytes = w->packed + tile * stride;
  const int32_t all = live.first[w->groups], ahead = all < kRunsAhead ? all : kRunsAhead;
  __m512 total = _mm512_setzero_ps();
  for (int32_t g = 0; g < w->groups; g++) {
    if (live.first[g] == live.first[g + 1]) continue;
    __m512i acc[1][kCount] = {{_mm512_set1_epi32(b->start[g])}};
    for (int32_t i = live.first[g]; i < live.first[g + 1]; i++) {
      const int32_t next = i + ahead, run = live.run[i];
      const uint8_t* at = bytes + (next < all ? 0 : stride) +
                          (int64_t)live.run[next < all ? next : next - all] * (BITS * kLine / 2);
      BITFOLD_UNROLL
      for (int byte = 0; byte < BITS * kLine / 2; byte += kLine)
        _mm_prefetch((const char*)at + byte, _MM_HINT_T0);
      const uint8_t* chunk = bytes + (int64_t)(run / 2) * BITS * kLine;
      if (run % 2)
        half_chunk<BITS, TABLE, 1, 1>(acc, chunk, stride, b->q + 4 * run, w->operand);
      else
        half_chunk<BITS, TABLE, 1, 0>(acc, chunk, stride, b->q + 4 * run, w->operand);
    }
    const int64_t at = (int64_t)tile * w->groups + g;
    __m512 part = _mm512_cvtepi32_ps(gathered<BITS, TABLE>(acc[0]));
    if (w->zero_points)
      part = _mm512_fnmadd_ps(zeros_at(w->zero_points, at), _mm512_set1_ps(b->sum[g]), part);
    total = _mm512_fmadd_ps(_mm512_mul_ps(part, scales_at(w, at)), _mm512_set1_ps(b->scale[g]),
                            total);
  }
  // A row that is not finite has scales that are NaN, and no live runs.
  _mm512_storeu_ps(sums, all ? total : _mm512_mul_ps(total, _mm512_set1_ps(b->scale[0])));
}

typedef void (*LiveDot)(const MatMul* op, const Block* b, int32_t tile, Live live, float* sums);

LiveDot live_dot_for(const PackedWeight* w) {
  static const LiveDot plain[] = {live_dot<1, false>, live_dot<2, false>, live_dot<3, false>,
                                  live_dot<4, false>, live_dot<5, false>, live_dot<6, false>,
                                  live_dot<7, false>, live_dot<8, false>};
  static const LiveDot table[] = {live_dot<1, true>, live_dot<2, true>, live_dot<3, true>,
                                  live_dot<4, true>};
  return (w->has_table ? table : plain)[w->bits - 1];
}

typedef void (*RowDot)(const MatMul* op, const Block* b, int32_t tile, float* sums);

struct RowDots {
  RowDot one, four;  // tiles
};

template <int BITS, bool TABLE>
struct RowsOf {
  static constexpr RowDots kF16 = {dot<BITS, TABLE, true, 1>, dot<BITS, TABLE, true, 4>};
  static constexpr RowDots kOther = {dot<BITS, TABLE, false, 1>, dot<BITS, TABLE, false, 4>};
};

template <int BITS, bool TABLE>
RowDots rows_of(const PackedWeight* w) {
  return w->scale_type == kScaleF16 ? RowsOf<BITS, TABLE>::kF16 : RowsOf<BITS, TABLE>::kOther;
}

RowDots dots_for(const PackedWeight* w) {
  switch (w->has_table ? -w->bits : w->bits) {
    case -4: return rows_of<4, true>(w);
    case -3: return rows_of<3, true>(w);
    case -2: return rows_of<2, true>(w);
    case -1: return rows_of<1, true>(w);
    case 1: return rows_of<1, false>(w);
    case 2: return rows_of<2, false>(w);
    case 3: return rows_of<3, false>(w);
    case 4: return rows_of<4, false>(w);
    case 5: return rows_of<5, false>(w);
    case 6: return rows_of<6, false>(w);
    case 7: return rows_of<7, false>(w);
    default: return rows_of<8, false>(w);
  }
}

}  // namespace

int64_t row_scratch_avx512(const MatMul* op) {
  return (op->weight->groups + 1 + (op->weight->k + 15) / 16) * (int64_t)sizeof(int32_t);
}

void multiply_row_avx512(const MatMul* op, int32_t tile, int32_t tile1, uint8_t* scratch) {
  const RowDots dots = dots_for(op->weight);
  const Block b = block_at(op, 0);
  alignas(64) float sums[4 * kTile];
  if (op->skips) {
    const LiveDot live_dot = live_dot_for(op->weight);
    const Live live = live_runs(op->weight, b.q, (int32_t*)scratch);
    for (int32_t tiles; tile < tile1; tile += tiles) {
      tiles = tile1 - tile > 2 ? 2 : tile1 - tile;
      for (int32_t t = 0; t < tiles; t++) live_dot(op, &b, tile + t, live, sums + t * kTile);
      write_all(op, &b, tile, tiles, sums);
    }
    return;
  }
  while (tile < tile1) {
    int32_t tiles = tile1 - tile;
    if (tiles >= 4 && !op->streamed) {
      dots.four(op, &b, tile, sums);
      tiles = 4;
    } else {
      tiles = tiles > 2 ? 2 : tiles;  // SwiGLU needs both
      for (int32_t t = 0; t < tiles; t++) dots.one(op, &b, tile + t, sums + t * kTile);
    }
    write_all(op, &b, tile, tiles, sums);
    tile += tiles;
  }
}

}  // namespace bitfold
