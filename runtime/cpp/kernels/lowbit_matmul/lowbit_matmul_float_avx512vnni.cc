// Float activations (acts=none) on AVX-512: codes become f32 on the fly, multiplied by FMA.

#include "matmul_avx512.h"

namespace bitfold {
namespace {

// Add step S of a chunk: four input channels, each a byte of every lane.
template <int BITS, bool TABLE, int R, int S>
inline void step(__m512* acc, const uint8_t* chunk, const float* x, const uint8_t* table,
                 __m512i offset) {
  const __m512i level = _mm512_sub_epi8(operands<BITS, TABLE, S>(chunk, table), offset);
  const __m512 w0 = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(level, 24), 24));
  const __m512 w1 = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(level, 16), 24));
  const __m512 w2 = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(level, 8), 24));
  const __m512 w3 = _mm512_cvtepi32_ps(_mm512_srai_epi32(level, 24));
  for (int r = 0; r < R; r++) acc[r] = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[r]), acc[r]);
  for (int r = 0; r < R; r++) acc[r] = _mm512_fmadd_ps(w1, _mm512_set1_ps(x[R + r]), acc[r]);
  for (int r = 0; r < R; r++) acc[r] = _mm512_fmadd_ps(w2, _mm512_set1_ps(x[2 * R + r]), acc[r]);
  for (int r = 0; r < R; r++) acc[r] = _mm512_fmadd_ps(w3, _mm512_set1_ps(x[3 * R + r]), acc[r]);
}

template <int BITS, bool TABLE, int R, int HALF>
inline void half_chunk(__m512* acc, const uint8_t* chunk, const float* x, const uint8_t* table,
                       __m512i offset) {
  step<BITS, TABLE, R, 4 * HALF>(acc, chunk, x, table, offset);
  step<BITS, TABLE, R, 4 * HALF + 1>(acc, chunk, x + 4 * R, table, offset);
  step<BITS, TABLE, R, 4 * HALF + 2>(acc, chunk, x + 8 * R, table, offset);
  step<BITS, TABLE, R, 4 * HALF + 3>(acc, chunk, x + 12 * R, table, offset);
}

// Sums [R][16] of one tile.
template <int BITS, bool TABLE, int R>
inline void dot_one(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
                    float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t halves = (w->k + 15) / 16, group_halves = (w->group_size + 15) / 16;
  const __m512i offset = _mm512_set1_epi8((char)w->offset);
  const float* x = b->x;
  __m512 total[R];
  for (int r = 0; r < R; r++) total[r] = _mm512_setzero_ps();

  int64_t half = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    __m512 acc[R];
    for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_ps();
    int64_t end = half + group_halves < halves ? half + group_halves : halves;
    for (; half < end; half++, x += 16 * R) {
      if (half & 1) {
        half_chunk<BITS, TABLE, R, 1>(acc, bytes, x, w->operand, offset);
        bytes += BITS * kLine;
      } else {
        half_chunk<BITS, TABLE, R, 0>(acc, bytes, x, w->operand, offset);
      }
    }
    const int64_t at = (int64_t)tile * w->groups + g;
    const __m512 scale = scales_at(w, at);
    if (w->zero_points) {
      const __m512 zero = zeros_at(w, at);
      for (int r = 0; r < R; r++)
        acc[r] = _mm512_fnmadd_ps(zero, _mm512_set1_ps(b->sum[g * R + r]), acc[r]);
    }
    for (int r = 0; r < R; r++) total[r] = _mm512_fmadd_ps(acc[r], scale, total[r]);
  }
  for (int r = 0; r < R; r++)
    _mm512_storeu_ps(sums + r * kTile, _mm512_mul_ps(total[r], _mm512_set1_ps(b->scale[r])));
}

template <int BITS, bool TABLE, int R, int NT>
void dot(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes, float* sums) {
  const int64_t stride = (int64_t)op->weight->chunks * BITS * kLine;
  for (int t = 0; t < NT; t++)
    dot_one<BITS, TABLE, R>(op, b, tile + t, bytes + t * stride, sums + t * R * kTile);
}

template <int BITS, bool TABLE>
struct Fused {
  static constexpr Dot kMany[kFusedRows] = {dot<BITS, TABLE, 1, 4>, dot<BITS, TABLE, 2, 2>,
                                            dot<BITS, TABLE, 3, 2>, dot<BITS, TABLE, 4, 2>};
  static constexpr Dot kOne[kFusedRows] = {dot<BITS, TABLE, 1, 1>, dot<BITS, TABLE, 2, 1>,
                                           dot<BITS, TABLE, 3, 1>, dot<BITS, TABLE, 4, 1>};
};

template <int BITS, bool TABLE>
FusedDots fused() {
  return {Fused<BITS, TABLE>::kMany, Fused<BITS, TABLE>::kOne};
}

FusedDots fused_dots(const PackedWeight* w) {
  static const FusedDots plain[] = {fused<1, false>(), fused<2, false>(), fused<3, false>(),
                                    fused<4, false>(), fused<5, false>(), fused<6, false>(),
                                    fused<7, false>(), fused<8, false>()};
  static const FusedDots table[] = {fused<1, true>(), fused<2, true>(), fused<3, true>(),
                                    fused<4, true>(), fused<5, true>(), fused<6, true>(),
                                    fused<7, true>(), fused<8, true>()};
  return (w->has_table ? table : plain)[w->bits - 1];
}

const Dot kPanelDots[kMaxBlockRows] = {
    dot<8, false, 1, 1>, dot<8, false, 2, 1>,  dot<8, false, 3, 1>,  dot<8, false, 4, 1>,
    dot<8, false, 5, 1>, dot<8, false, 6, 1>,  dot<8, false, 7, 1>,  dot<8, false, 8, 1>,
    dot<8, false, 9, 1>, dot<8, false, 10, 1>, dot<8, false, 11, 1>, dot<8, false, 12, 1>};

}  // namespace

void multiply_float_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                           int32_t block1, uint8_t* scratch) {
  multiply_tiles(op, tile0, tile1, block0, block1, scratch, fused_dots(op->weight), kPanelDots);
}

}  // namespace bitfold
