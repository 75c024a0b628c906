// Float activations (acts=none) on AVX-512: codes become f32 on the fly, multiplied by FMA.

#include "matmul_avx512.h"

namespace bitfold {
namespace {

// Add step S of a chunk: four input channels, each a byte of every lane.
template <int BITS, bool TABLE, int R, int NT, int S>
inline __attribute__((always_inline)) void step(__m512 (&acc)[NT][R], const uint8_t* chunk,
                                                int64_t stride, const float* x,
                                                const Operands<BITS, TABLE>& operands,
                                                __m512i offset) {
  __m512i level[NT];
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++)
    level[t] = _mm512_sub_epi8(
        operands.template at<S>(lines_at<BITS>(chunk + t * stride)), offset);
  BITFOLD_UNROLL
  for (int j = 0; j < 4; j++) {
    __m512 value[NT];
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++) {
      const __m512i top = j == 3 ? level[t] : _mm512_slli_epi32(level[t], 24 - 8 * j);
      value[t] = _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24));
    }
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) {
      const __m512 a = _mm512_set1_ps(x[j * R + r]);
      BITFOLD_UNROLL
      for (int t = 0; t < NT; t++) acc[t][r] = _mm512_fmadd_ps(value[t], a, acc[t][r]);
    }
  }
}

template <int BITS, bool TABLE, int R, int NT, int HALF>
inline __attribute__((always_inline)) void half_chunk(__m512 (&acc)[NT][R], const uint8_t* chunk,
                                                      int64_t stride, const float* x,
                                                      const Operands<BITS, TABLE>& operands,
                                                      __m512i offset) {
  step<BITS, TABLE, R, NT, 4 * HALF>(acc, chunk, stride, x, operands, offset);
  step<BITS, TABLE, R, NT, 4 * HALF + 1>(acc, chunk, stride, x + 4 * R, operands, offset);
  step<BITS, TABLE, R, NT, 4 * HALF + 2>(acc, chunk, stride, x + 8 * R, operands, offset);
  step<BITS, TABLE, R, NT, 4 * HALF + 3>(acc, chunk, stride, x + 12 * R, operands, offset);
}

// Sums [NT][R][16] of NT tiles, the first of which is `tile` and lies at `bytes`.
template <int BITS, bool TABLE, int R, int NT>
void dot(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
         const int8_t* zero_points, float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t stride = (int64_t)w->chunks * BITS * kLine;
  const int64_t halves = (w->k + 15) / 16, group_halves = (w->group_size + 15) / 16;
  const __m512i offset = _mm512_set1_epi8((char)op->offset);
  const Operands<BITS, TABLE> operands(w->operand);
  const float *x = b->x, *sum_x = b->sum;
  __m512 total[NT][R];
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++)
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) total[t][r] = _mm512_setzero_ps();

  int64_t half = 0;
  for (int32_t g = 0; g < w->groups; g++, sum_x += R) {
    __m512 acc[NT][R];
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++)
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) acc[t][r] = _mm512_setzero_ps();
    const int64_t end = half + group_halves < halves ? half + group_halves : halves;
    for (; half < end; half++, x += 16 * R) {
      if (half & 1) {
        half_chunk<BITS, TABLE, R, NT, 1>(acc, bytes, stride, x, operands, offset);
        bytes += BITS * kLine;
      } else {
        half_chunk<BITS, TABLE, R, NT, 0>(acc, bytes, stride, x, operands, offset);
      }
    }
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++) {
      const int64_t at = (int64_t)(tile + t) * w->groups + g;
      const __m512 scale = scales_at(w, at);
      const __m512 zero = zero_points ? zeros_at(zero_points, at) : _mm512_setzero_ps();
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        __m512 part = acc[t][r];
        if (zero_points) part = _mm512_fnmadd_ps(zero, _mm512_set1_ps(sum_x[r]), part);
        total[t][r] = _mm512_fmadd_ps(part, scale, total[t][r]);
      }
    }
  }
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++)
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++)
      _mm512_storeu_ps(sums + (t * R + r) * kTile,
                       _mm512_mul_ps(total[t][r], _mm512_set1_ps(b->scale[r])));
}

template <int BITS, bool TABLE>
struct Fused {
  static constexpr Dot kDots[kBlockRows] = {dot<BITS, TABLE, 1, 1>, dot<BITS, TABLE, 2, 2>,
                                            dot<BITS, TABLE, 3, 2>, dot<BITS, TABLE, 4, 2>,
                                            dot<BITS, TABLE, 5, 2>, dot<BITS, TABLE, 6, 2>};
};

const Dot kOne[kBlockRows] = {dot<8, false, 1, 1>, dot<8, false, 2, 1>, dot<8, false, 3, 1>,
                              dot<8, false, 4, 1>, dot<8, false, 5, 1>, dot<8, false, 6, 1>};

const Dot kTwo[kBlockRows] = {dot<8, false, 1, 2>, dot<8, false, 2, 2>, dot<8, false, 3, 2>,
                              dot<8, false, 4, 2>, dot<8, false, 5, 2>, dot<8, false, 6, 2>};

// The common widths; others always go by way of a panel.
const Dot* fused(const PackedWeight* w) {
  static const Dot* const plain[] = {nullptr, Fused<2, false>::kDots, Fused<3, false>::kDots,
                                     Fused<4, false>::kDots, nullptr, nullptr, nullptr,
                                     Fused<8, false>::kDots};
  return w->has_table || w->masks ? nullptr : plain[w->bits - 1];
}

// A pair of tiles, or one: their bytes and zero points.
struct Panel {
  const uint8_t* bytes;
  const int8_t* zero_points;
};

// Decode `tiles` tiles into `scratch`, or point at them where they need no decoding.
Panel decode_panel(const MatMul* op, Decode decode_tile, int32_t tile, int32_t tiles,
                          uint8_t* scratch) {
  const PackedWeight* w = op->weight;
  if (is_decoded(w)) return {w->packed + tile * tile_bytes(w), w->zero_points};
  const int64_t zeros = (int64_t)w->groups * kTile;
  bool folded = folds(op);
  for (int32_t t = 0; t < tiles && folded; t++)
    folded = tile_folds(w, w->zero_points + (tile + t) * zeros);
  for (int32_t t = 0; t < tiles; t++) {
    const Shift shift = {folded ? w->zero_points + (tile + t) * zeros : nullptr,
                         op->offset - w->offset};
    decode_chunks(op, decode_tile, tile + t, 0, w->chunks, tile_at(w, tile + t), &shift,
                  scratch + 2 * padded_k(w) * kTile, scratch + t * padded_k(w) * kTile);
  }
  return {scratch, folded ? nullptr : w->zero_points};
}

// Multiply by way of panels of whole tiles.
void multiply_whole(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                           int32_t block1, uint8_t* scratch) {
  const PackedWeight* w = op->weight;
  alignas(64) float sums[2 * kBlockRows * kTile];
  const Decode decode_tile = decoder(w);
  for (int32_t tile = tile0; tile < tile1; tile += 2) {
    const int32_t tiles = tile1 - tile < 2 ? 1 : 2;
    const Panel panel = decode_panel(op, decode_tile, tile, tiles, scratch);
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      (tiles == 2 ? kTwo : kOne)[b.rows - 1](op, &b, tile, panel.bytes,
                                                       panel.zero_points, sums);
      write_all(op, &b, tile, tiles, sums);
    }
  }
}

}  // namespace

void multiply_float_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                           int32_t block1, uint8_t* scratch) {
  if (op->weight->has_values)
    return multiply_values_avx512(op, tile0, tile1, block0, block1, scratch);
  const Dot* const dots = fused(op->weight);
  if (dots && op->rows <= kFusedRows)
    tile0 = multiply_packed(op, tile0, tile1, block0, block1, dots);
  multiply_whole(op, tile0, tile1, block0, block1, scratch);
}

}  // namespace bitfold
