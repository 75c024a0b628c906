// LowBitMatMul in 256-bit registers: every tile is decoded into operand bytes that stay in L1 or
// L2, then multiplied by all blocks of rows; up to kBlockRows rows and kHalves halves of a tile
// (8 outputs each) at a time, as many as registers hold.
//
// Internal linkage throughout: lowbit_matmul_avx2.cc and lowbit_matmul_avxvnni.cc include this.
#pragma once

#include "avx2.h"
#include "dot_avx2.h"
#include "fixed_rows_simd.h"

namespace bitfold {
namespace {

#if defined(__AVXVNNI__)
constexpr int kBlockRows = 6, kHalves = 2;
#else
constexpr int kBlockRows = 4, kHalves = 1;
#endif

// Sums of the halves of a tile from `half_tile` on and R rows, with 16 floats from row to row.
template <int RANGE, int R>
void dot_int8(const MatMul* op, const Block* b, int32_t tile, int half_tile, const uint8_t* panel,
              float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t chunk_halves = (w->k + 15) / 16, group_halves = (w->group_size + 15) / 16;
  const uint8_t* line = panel + 32 * half_tile;
  const int32_t *q = b->q, *start = b->start;
  const float *scale_a = b->scale, *sum_a = b->sum;
  sums += 8 * half_tile;
  for (int r = 0; r < R; r++)
    for (int h = 0; h < kHalves; h++)
      _mm256_storeu_ps(sums + r * kTile + 8 * h, _mm256_setzero_ps());
  int64_t half = 0;
  for (int32_t g = 0; g < w->groups; g++, start += R, scale_a += R, sum_a += R) {
    __m256i acc[R][kHalves];
    for (int r = 0; r < R; r++)  // signed levels need no offset removed
      for (int h = 0; h < kHalves; h++)
        acc[r][h] = _mm256_set1_epi32(RANGE == kSigned ? 0 : start[r]);
    const int64_t end = half + group_halves < chunk_halves ? half + group_halves : chunk_halves;
    for (; half < end; half++, line += 4 * kLine, q += 4 * R)
      add_products<RANGE, 4>(acc, line, [&](int s, int r) { return q[s * R + r]; });
    for (int h = 0; h < kHalves; h++) {
      const int64_t at = ((int64_t)tile * w->groups + g) * 2 + half_tile + h;
      const __m256 scale = scales_at(w, at);
      const __m256 zero = w->zero_points ? zeros_at(w, at) : _mm256_setzero_ps();
      for (int r = 0; r < R; r++) {
        float* sum = sums + r * kTile + 8 * h;
        const __m256 part = _mm256_fnmadd_ps(zero, _mm256_broadcast_ss(sum_a + r),
                                             _mm256_cvtepi32_ps(acc[r][h]));
        _mm256_storeu_ps(sum, _mm256_fmadd_ps(_mm256_mul_ps(part, scale),
                                              _mm256_broadcast_ss(scale_a + r),
                                              _mm256_loadu_ps(sum)));
      }
    }
  }
}

template <int R>
void dot_float(const MatMul* op, const Block* b, int32_t tile, int half_tile,
               const uint8_t* panel, float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t halves = (w->k + 15) / 16, group_halves = (w->group_size + 15) / 16;
  const __m256i offset = _mm256_set1_epi8((char)w->offset);
  const uint8_t* line = panel + 32 * half_tile;
  const float* x = b->x;
  __m256 total[R];
  for (int r = 0; r < R; r++) total[r] = _mm256_setzero_ps();
  int64_t half = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    __m256 acc[R];
    for (int r = 0; r < R; r++) acc[r] = _mm256_setzero_ps();
    const int64_t end = half + group_halves < halves ? half + group_halves : halves;
    for (; half < end; half++)
      for (int s = 0; s < 4; s++, line += kLine, x += 4 * R) {
        const __m256i level =
            _mm256_sub_epi8(_mm256_loadu_si256((const __m256i*)line), offset);
        const __m256 value[4] = {
            _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(level, 24), 24)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(level, 16), 24)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(level, 8), 24)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(level, 24))};
        for (int j = 0; j < 4; j++)
          for (int r = 0; r < R; r++)
            acc[r] = _mm256_fmadd_ps(value[j], _mm256_broadcast_ss(x + j * R + r), acc[r]);
      }
    const int64_t at = ((int64_t)tile * w->groups + g) * 2 + half_tile;
    const __m256 scale = scales_at(w, at);
    const __m256 zero = w->zero_points ? zeros_at(w, at) : _mm256_setzero_ps();
    for (int r = 0; r < R; r++) {
      acc[r] = _mm256_fnmadd_ps(zero, _mm256_broadcast_ss(b->sum + g * R + r), acc[r]);
      total[r] = _mm256_fmadd_ps(acc[r], scale, total[r]);
    }
  }
  for (int r = 0; r < R; r++)
    _mm256_storeu_ps(sums + r * kTile + 8 * half_tile,
                     _mm256_mul_ps(total[r], _mm256_broadcast_ss(b->scale + r)));
}

typedef void (*Dot)(const MatMul* op, const Block* b, int32_t tile, int half_tile,
                    const uint8_t* panel, float* sums);

template <int RANGE>
struct Int8 {
  static constexpr Dot kDots[kBlockRows] = {
      dot_int8<RANGE, 1>, dot_int8<RANGE, 2>, dot_int8<RANGE, 3>, dot_int8<RANGE, 4>,
#if defined(__AVXVNNI__)
      dot_int8<RANGE, 5>, dot_int8<RANGE, 6>,
#endif
  };
};

constexpr Dot kFloat[kBlockRows] = {
    dot_float<1>, dot_float<2>, dot_float<3>, dot_float<4>,
#if defined(__AVXVNNI__)
    dot_float<5>, dot_float<6>,
#endif
};

inline const Dot* int8_dots(const PackedWeight* w) {
#if defined(__AVXVNNI__)
  (void)w;
  return Int8<kAny>::kDots;
#else
  static const Dot* const all[] = {Int8<kNarrow>::kDots, Int8<kWide>::kDots, Int8<kSigned>::kDots};
  return all[range_of(w)];
#endif
}

void multiply(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0, int32_t block1,
              uint8_t* scratch) {
  const PackedWeight* w = op->weight;
  if (w->has_values) return multiply_values_avx2(op, tile0, tile1, block0, block1, scratch);
  alignas(32) float sums[2 * kBlockRows * kTile];
  const int64_t bytes = padded_k(w) * kTile;
  const int32_t by = is_paired(op) ? 2 : 1;
  const Dot* dot = op->int8 ? int8_dots(w) : kFloat;
  const int step = op->int8 ? kHalves : 1;
  for (int32_t tile = tile0; tile < tile1; tile += by) {
    const uint8_t* panel[2];
    for (int32_t t = 0; t < by; t++)
      panel[t] = decoded(op, tile + t, scratch + by * bytes, scratch + t * bytes);
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      float* up_sums = sums + (by - 1) * b.rows * kTile;
      for (int32_t t = 0; t < by; t++)
        for (int half = 0; half < 2; half += step)
          dot[b.rows - 1](op, &b, tile + t, half, panel[t], t ? up_sums : sums);
      write(op, &b, tile, sums, up_sums);
    }
  }
}

int32_t offset(const MatMul* op) { return op->weight->offset; }

// For rows of one block (beyond, floats are as fast), and operand bytes whose products with -128
// fit.
int32_t float_digits(const MatMul* op) {
  const PackedWeight* w = op->weight;
#if defined(__AVXVNNI__)
  const bool fits = true;
#else
  const bool fits = range_of(w) != kSigned;
#endif
  return fits && !w->has_values && op->rows * kFloatDigits <= kBlockRows ? kFloatDigits : 0;
}

int64_t scratch(const MatMul* op) {
  if (op->weight->has_values) return values_scratch(op);
  return (is_paired(op) ? 2 : 1) * padded_k(op->weight) * kTile + lines_scratch(op->weight);
}

}  // namespace
}  // namespace bitfold
