// Masked weights on AVX-512 VBMI2: vpexpandb spreads a step's 64 bytes.
//
// A single row is multiplied while its weights are decoded and spread, so that no more than the
// packed bytes is read.

#include "avx512.h"
#include "masked.h"
#include "matmul_avx512.h"

namespace bitfold {
namespace {

void spread(uint8_t* bytes, const uint8_t* masks, int64_t steps, const uint8_t* zero) {
  const __m512i elsewhere = _mm512_loadu_si512(zero);
  for (int64_t step = 0; step < steps; step++, bytes += kLine)
    _mm512_storeu_si512(bytes, _mm512_mask_expand_epi8(elsewhere, mask_at(masks, step),
                                                       _mm512_loadu_si512(bytes)));
}

// How many bytes ahead lines and masks are fetched.
constexpr int64_t kLinesAhead = 4 << 10, kMasksAhead = 2 << 10;

// Load lines LINE and up from `at` on, each as long as the longest of its steps.  Returns where the
// next chunk's begin.
template <int BITS, int LINE = 0>
inline __attribute__((always_inline)) const uint8_t* load_lines(Lines<BITS>& lines,
                                                                const int64_t (&counts)[kSteps],
                                                                const uint8_t* at) {
  constexpr unsigned kShared = steps_in_line(BITS, LINE);
  int64_t longest = 0;
  BITFOLD_UNROLL
  for (int s = 0; s < kSteps; s++)
    if (kShared >> s & 1) longest = longest > counts[s] ? longest : counts[s];
  lines.line[LINE] = _mm512_loadu_si512(at);
  if constexpr (LINE + 1 < BITS)
    return load_lines<BITS, LINE + 1>(lines, counts, at + longest);
  else
    return at + longest;
}

template <int BITS>
inline __attribute__((always_inline)) const uint8_t* load_lines(Lines<BITS>& lines,
                                                                const uint8_t* masks,
                                                                const uint8_t* at) {
  int64_t counts[kSteps];
  BITFOLD_UNROLL
  for (int s = 0; s < kSteps; s++)  // from memory: GCC would move each mask from the mask registers
    asm("popcntq %1, %0" : "=r"(counts[s]) : "m"(*(const uint64_t*)(masks + 8 * s)));
  return load_lines<BITS>(lines, counts, at);
}

template <int BITS, bool TABLE, int S>
inline __attribute__((always_inline)) void step(__m512i (&acc)[4], const Lines<BITS>& lines,
                                                const uint8_t* masks, __m512i zero,
                                                const int32_t* q,
                                                const Operands<BITS, TABLE>& operands) {
  __m512i u = operands.template at<S>(lines);
  u = _mm512_mask_expand_epi8(zero, mask_at(masks, S), u);
  add_products(acc[S % 4], u, _mm512_set1_epi32(q[S]));
}

template <int BITS, bool TABLE, int HALF>
inline __attribute__((always_inline)) void half_chunk(__m512i (&acc)[4], const Lines<BITS>& lines,
                                                      const uint8_t* masks, __m512i zero,
                                                      const int32_t* q,
                                                      const Operands<BITS, TABLE>& operands) {
  step<BITS, TABLE, 4 * HALF>(acc, lines, masks, zero, q, operands);
  step<BITS, TABLE, 4 * HALF + 1>(acc, lines, masks, zero, q, operands);
  step<BITS, TABLE, 4 * HALF + 2>(acc, lines, masks, zero, q, operands);
  step<BITS, TABLE, 4 * HALF + 3>(acc, lines, masks, zero, q, operands);
}

// The bytes of weights that are not kept, of one group.
inline __m512i zero_line(const PackedWeight* w, int64_t at) {
  if (!w->zero_points) return _mm512_set1_epi8((char)w->offset);
  const __m512i z = _mm512_cvtepi8_epi32(
      _mm_loadu_si128((const __m128i*)(w->zero_points + at * kTile)));
  return each_byte(_mm512_add_epi32(z, _mm512_set1_epi32(w->offset)));
}

// Sums [16] of one tile.
template <int BITS, bool TABLE>
void dot(const MatMul* op, const Block* b, int32_t tile, float* sums) {
  const PackedWeight* w = op->weight;
  const uint8_t* masks = masks_of(w, tile, 0);
  const uint8_t* at = first_line(w, tile);
  const int32_t* q = b->q;
  const int64_t group_halves = (w->group_size + 15) / 16;
  int64_t left = (w->k + 15) / 16, half = 0;  // 16-channel halves of chunks
  const bool row_scales = has_row_scales(op);
  __m512 total = _mm512_setzero_ps();
  Lines<BITS> lines;
  const Operands<BITS, TABLE> operands(w->operand);
  for (int32_t g = 0; g < w->groups; g++) {
    const int64_t scale_at = (int64_t)tile * w->groups + g;
    const __m512i zero = zero_line(w, scale_at);
    __m512i acc[4] = {_mm512_set1_epi32(b->start[g])};
    int64_t now = left < group_halves ? left : group_halves;
    left -= now;
    if (half) {  // the group begins in the middle of a chunk
      half_chunk<BITS, TABLE, 1>(acc, lines, masks, zero, q, operands);
      masks += kLine, q += 8, now--, half = 0;
    }
    for (; now >= 2; now -= 2) {
      _mm_prefetch((const char*)(masks + kMasksAhead), _MM_HINT_T0);
      BITFOLD_UNROLL
      for (int line = 0; line < (BITS + 1) / 2; line++)
        _mm_prefetch((const char*)(at + kLinesAhead + line * kLine), _MM_HINT_T0);
      at = load_lines<BITS>(lines, masks, at);
      half_chunk<BITS, TABLE, 0>(acc, lines, masks, zero, q, operands);
      half_chunk<BITS, TABLE, 1>(acc, lines, masks, zero, q, operands);
      masks += kLine, q += 8;
    }
    if (now) {
      at = load_lines<BITS>(lines, masks, at);
      half_chunk<BITS, TABLE, 0>(acc, lines, masks, zero, q, operands);
      half = 1;
    }
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(acc[0], acc[1]),
                                         _mm512_add_epi32(acc[2], acc[3]));
    __m512 part = _mm512_cvtepi32_ps(sum);
    if (w->zero_points)
      part = _mm512_fnmadd_ps(zeros_at(w->zero_points, scale_at), _mm512_set1_ps(b->sum[g]), part);
    total = add_group(total, part, scales_at(w, scale_at), b->scale[g], row_scales);
  }
  _mm512_storeu_ps(sums, scaled(total, b->scale[0], row_scales));
}

typedef void (*RowDot)(const MatMul* op, const Block* b, int32_t tile, float* sums);

RowDot dot_for(const PackedWeight* w) {
  static const RowDot plain[] = {dot<1, false>, dot<2, false>, dot<3, false>, dot<4, false>,
                                 dot<5, false>, dot<6, false>, dot<7, false>, dot<8, false>};
  static const RowDot table[] = {dot<1, true>, dot<2, true>, dot<3, true>, dot<4, true>,
                                 dot<5, true>, dot<6, true>, dot<7, true>, dot<8, true>};
  return (w->has_table ? table : plain)[w->bits - 1];
}

void multiply_row(const MatMul* op, int32_t tile, int32_t tile1) {
  const RowDot dot_tile = dot_for(op->weight);
  const Block b = block_at(op, 0);
  alignas(64) float sums[2 * kTile];
  for (int32_t tiles; tile < tile1; tile += tiles) {
    tiles = tile1 - tile > 2 ? 2 : tile1 - tile;  // SwiGLU needs both
    for (int32_t t = 0; t < tiles; t++) dot_tile(op, &b, tile + t, sums + t * kTile);
    write_all(op, &b, tile, tiles, sums);
  }
}

}  // namespace

const MaskedKernels kMaskedAvx512Vbmi2 = {spread, multiply_row};

}  // namespace bitfold
