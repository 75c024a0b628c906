// int8 activations on AVX-512 VNNI: one vpdpbusd multiplies four input channels of 16 outputs.
//
// Few rows: lines are decoded in registers on their way to the dot product, several tiles at a
// time, so that the packed bytes stream in at memory speed.  Many rows: a panel of tiles is
// decoded once into operand bytes and reused by every block of rows.

#include "avx512.h"
#include "matmul_avx512.h"

namespace bitfold {
namespace {

template <int R, int NT>
struct Accumulators {
  __m512i value[NT][R];
};

// Add step S of a chunk for NT tiles and R rows; q points at the step's activations.
template <int BITS, bool TABLE, int R, int NT, int S>
inline void step(Accumulators<R, NT>& acc, const uint8_t* chunk, int64_t stride,
                 const int32_t* q, const uint8_t* table) {
  __m512i u[NT];
  for (int t = 0; t < NT; t++) u[t] = operands<BITS, TABLE, S>(chunk + t * stride, table);
  for (int r = 0; r < R; r++) {
    __m512i a = _mm512_set1_epi32(q[r]);
    for (int t = 0; t < NT; t++)
      acc.value[t][r] = _mm512_dpbusd_epi32(acc.value[t][r], u[t], a);
  }
}

template <int BITS, bool TABLE, int R, int NT, int HALF>
inline void half_chunk(Accumulators<R, NT>& acc, const uint8_t* chunk, int64_t stride,
                       const int32_t* q, const uint8_t* table) {
  step<BITS, TABLE, R, NT, 4 * HALF>(acc, chunk, stride, q, table);
  step<BITS, TABLE, R, NT, 4 * HALF + 1>(acc, chunk, stride, q + R, table);
  step<BITS, TABLE, R, NT, 4 * HALF + 2>(acc, chunk, stride, q + 2 * R, table);
  step<BITS, TABLE, R, NT, 4 * HALF + 3>(acc, chunk, stride, q + 3 * R, table);
}

// Sums [NT][R][16] of NT tiles, the first of which is `tile` and lies at `bytes`.
template <int BITS, bool TABLE, int R, int NT>
void dot(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes, float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t stride = (int64_t)w->chunks * BITS * kLine;
  const int64_t halves = (w->k + 15) / 16, group_halves = (w->group_size + 15) / 16;
  const int32_t* q = b->q;
  __m512 total[NT][R];
  for (int t = 0; t < NT; t++)
    for (int r = 0; r < R; r++) total[t][r] = _mm512_setzero_ps();

  int64_t half = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    Accumulators<R, NT> acc;
    for (int r = 0; r < R; r++)
      for (int t = 0; t < NT; t++) acc.value[t][r] = _mm512_set1_epi32(b->start[g * R + r]);
    int64_t end = half + group_halves < halves ? half + group_halves : halves;
    if (half < end && (half & 1)) {
      half_chunk<BITS, TABLE, R, NT, 1>(acc, bytes, stride, q, w->operand);
      bytes += BITS * kLine, q += 4 * R, half++;
    }
    for (; half + 2 <= end; half += 2) {
      half_chunk<BITS, TABLE, R, NT, 0>(acc, bytes, stride, q, w->operand);
      half_chunk<BITS, TABLE, R, NT, 1>(acc, bytes, stride, q + 4 * R, w->operand);
      bytes += BITS * kLine, q += 8 * R;
    }
    if (half < end) {
      half_chunk<BITS, TABLE, R, NT, 0>(acc, bytes, stride, q, w->operand);
      q += 4 * R, half++;
    }
    for (int t = 0; t < NT; t++) {
      const int64_t at = (int64_t)(tile + t) * w->groups + g;
      const __m512 scale = scales_at(w, at);
      if (w->zero_points) {
        const __m512 zero = zeros_at(w, at);
        for (int r = 0; r < R; r++) {
          __m512 part = _mm512_fnmadd_ps(zero, _mm512_set1_ps(b->sum[g * R + r]),
                                         _mm512_cvtepi32_ps(acc.value[t][r]));
          total[t][r] = _mm512_fmadd_ps(_mm512_mul_ps(part, scale),
                                        _mm512_set1_ps(b->scale[g * R + r]), total[t][r]);
        }
      } else {
        for (int r = 0; r < R; r++)
          total[t][r] =
              _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc.value[t][r]), scale),
                              _mm512_set1_ps(b->scale[g * R + r]), total[t][r]);
      }
    }
  }
  for (int t = 0; t < NT; t++)
    for (int r = 0; r < R; r++) _mm512_storeu_ps(sums + (t * R + r) * kTile, total[t][r]);
}

// [rows - 1][tiles in flight > 1]: rows 1 and 2 keep four and two tiles in flight.
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

void multiply_int8_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                          int32_t block1, uint8_t* scratch) {
  multiply_tiles(op, tile0, tile1, block0, block1, scratch, fused_dots(op->weight), kPanelDots);
}

}  // namespace bitfold
