// int8 activations on AVX-512 VNNI: one vpdpbusd multiplies four input channels of 16 outputs.
//
// Internal linkage throughout: a translation unit for each set of instructions includes this.
#pragma once

#include <utility>

#include "avx512.h"
#include "fixed_rows_simd.h"
#include "matmul_avx512.h"
#include "one_row_avx512.h"

namespace bitfold {
namespace {

// Add step S of a chunk for NT tiles and R rows; q points at the step's activations.
template <int BITS, bool TABLE, int R, int NT, int S>
BITFOLD_INLINE void rows_step(__m512i (&acc)[NT][R], const uint8_t* chunk, int64_t stride,
                              const int32_t* q, const Operands<BITS, TABLE>& operands) {
  __m512i u[NT];
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++)
    u[t] = operands.template at<S>(lines_at<BITS>(chunk + t * stride));
  BITFOLD_UNROLL
  for (int r = 0; r < R; r++) {
    const __m512i a = _mm512_set1_epi32(q[r]);
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++)
      acc[t][r] = _mm512_dpbusd_epi32(acc[t][r], u[t], a);
  }
}

template <int BITS, bool TABLE, int R, int NT, int HALF>
BITFOLD_INLINE void rows_half(__m512i (&acc)[NT][R], const uint8_t* chunk, int64_t stride,
                              const int32_t* q, const Operands<BITS, TABLE>& operands) {
  rows_step<BITS, TABLE, R, NT, 4 * HALF>(acc, chunk, stride, q, operands);
  rows_step<BITS, TABLE, R, NT, 4 * HALF + 1>(acc, chunk, stride, q + R, operands);
  rows_step<BITS, TABLE, R, NT, 4 * HALF + 2>(acc, chunk, stride, q + 2 * R, operands);
  rows_step<BITS, TABLE, R, NT, 4 * HALF + 3>(acc, chunk, stride, q + 3 * R, operands);
}

// Packed bytes are fetched into L2 ahead of their use: those of the next two tiles, unless these
// are so long that a few pages on is better.
constexpr int64_t kMostAhead = 128 << 10;
constexpr int64_t kFarAhead = 4 << 10;

// Sums [NT][R][16] of NT tiles, the first of which is `tile` and lies at `bytes`; STREAM when
// these come from memory.
template <int BITS, bool TABLE, bool STREAM, int R, int NT>
void rows_dot(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
         const int8_t* zero_points, float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t stride = (int64_t)w->chunks * BITS * kLine;
  const int64_t halves = (w->k + 15) / 16, group_halves = (w->group_size + 15) / 16;
  const int32_t* q = b->q;
  const Operands<BITS, TABLE> operands(w->operand);
  const int64_t ahead = NT * stride <= kMostAhead ? NT * stride : kFarAhead;
  const float *scale_a = b->scale, *sum_a = b->sum;
  const int32_t* start = b->start;
  const bool row_scales = has_row_scales(op);
  __m512 total[NT][R];
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++)
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) total[t][r] = _mm512_setzero_ps();

  int64_t half = 0;
  for (int32_t g = 0; g < w->groups; g++, start += R, scale_a += R, sum_a += R) {
    __m512i acc[NT][R];
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) {
      const __m512i from = _mm512_set1_epi32(start[r]);
      BITFOLD_UNROLL
      for (int t = 0; t < NT; t++) acc[t][r] = from;
    }
    const int64_t end = half + group_halves < halves ? half + group_halves : halves;
    if (half < end && (half & 1)) {
      rows_half<BITS, TABLE, R, NT, 1>(acc, bytes, stride, q, operands);
      bytes += BITS * kLine, q += 4 * R, half++;
    }
    for (; half + 2 <= end; half += 2) {
      if (STREAM) {
        BITFOLD_UNROLL
        for (int t = 0; t < NT; t++)
          BITFOLD_UNROLL
          for (int line = 0; line < BITS; line++)
            _mm_prefetch((const char*)(bytes + t * stride + line * kLine + ahead), _MM_HINT_T1);
      }
      rows_half<BITS, TABLE, R, NT, 0>(acc, bytes, stride, q, operands);
      rows_half<BITS, TABLE, R, NT, 1>(acc, bytes, stride, q + 4 * R, operands);
      bytes += BITS * kLine, q += 8 * R;
    }
    if (half < end) {
      rows_half<BITS, TABLE, R, NT, 0>(acc, bytes, stride, q, operands);
      q += 4 * R, half++;
    }
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++) {
      const int64_t at = (int64_t)(tile + t) * w->groups + g;
      const __m512 scale = scales_at(w, at);
      const __m512 zero = zero_points ? zeros_at(zero_points, at) : _mm512_setzero_ps();
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        __m512 part = _mm512_cvtepi32_ps(acc[t][r]);
        if (zero_points) part = _mm512_fnmadd_ps(zero, _mm512_set1_ps(sum_a[r]), part);
        total[t][r] = add_group(total[t][r], part, scale, scale_a[r], row_scales);
      }
    }
  }
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++)
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++)
      _mm512_storeu_ps(sums + (t * R + r) * kTile, scaled(total[t][r], b->scale[r], row_scales));
}

template <int BITS, bool TABLE>
struct Fused {
  static constexpr Dot kDots[kBlockRows] = {
      nullptr,
      rows_dot<BITS, TABLE, true, 2, 2>,
      rows_dot<BITS, TABLE, true, 3, 2>,
      rows_dot<BITS, TABLE, true, 4, 2>,
      rows_dot<BITS, TABLE, true, 5, 2>,
      rows_dot<BITS, TABLE, true, 6, 2>};
};

// Those of widths from 1 on.
template <bool TABLE, int... WIDTH>
const Dot* fused_dots(const PackedWeight* w, std::integer_sequence<int, WIDTH...>) {
  static const Dot* const kDots[] = {Fused<WIDTH + 1, TABLE>::kDots...};
  return kDots[w->bits - 1];
}

// Null where codes are decoded once for all rows: those of masked weights, and of tables that take
// several look-ups.
const Dot* fused(const PackedWeight* w) {
  if (w->masks || (w->has_table && w->bits > kWidestTable)) return nullptr;
  if (!w->has_table) return fused_dots<false>(w, std::make_integer_sequence<int, 8>());
  return fused_dots<true>(w, std::make_integer_sequence<int, kWidestTable>());
}

void multiply(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0, int32_t block1,
              uint8_t* scratch) {
  if (!op->int8) return multiply_values_avx512(op, tile0, tile1, block0, block1, scratch);
  if (op->weight->masks && int8_rows(op) == 1 && op->masked->multiply_row)
    return op->masked->multiply_row(op, tile0, tile1);
  const Dot* const dots = fused(op->weight);
  if (dots && int8_rows(op) == 1) return multiply_row(op, tile0, tile1, scratch);
  if (dots && int8_rows(op) <= kFusedRows)
    tile0 = multiply_packed(op, tile0, tile1, block0, block1, dots);
  multiply_panels_avx512(op, tile0, tile1, block0, block1, decoder(op->weight), scratch);
}

int32_t offset(const MatMul* op) { return folds(op) ? 128 : op->weight->offset; }

// Always: fixed point is faster for any number of rows.
int32_t float_digits(const MatMul* op) { return op->weight->has_values ? 0 : kFloatDigits; }

int64_t scratch(const MatMul* op) {
  if (op->weight->has_values) return values_scratch(op);
  const int64_t panel = panel_scratch_avx512(op), row = row_scratch(op);
  return panel > row ? panel : row;
}

inline constexpr MatMulKernels matmul_kernels(const char* isa) {
  return {isa,
          kBlockRows,
          offset,
          prepare_row_avx512,
          project_avx512,
          quantize_avx512,
          interleave_avx512,
          scratch,
          multiply,
          float_digits};
}

}  // namespace
}  // namespace bitfold
