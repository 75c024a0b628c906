// Activations of one bit as planes on AVX-512.  They are +-1 / step, and their scales as many times
// larger: where the first plane of a weight differs from them, one is taken off the sum.
//
// Internal linkage throughout: only translation units built for AVX-512 include this.
#pragma once

#include <math.h>

#include "matmul_avx512.h"
#include "planes.h"

namespace bitfold {
namespace {

constexpr int kAhead = 512;  // floats of X that are fetched ahead of their use

// Turns what binarize_avx512 left of a block, sums of |x| in `scale` and the numbers of ones in
// `start`, into scales, sums and starts.  Counts are even: base times a sum is a multiple of the
// step.  Whole vectors: the arrays are padded to 64 bytes.
inline void finish_signs(const MatMul* op, Block* b) {
  const PackedWeight* w = op->weight;
  const int32_t all = w->groups * b->rows, last = (w->groups - 1) * b->rows;
  const int32_t step = step_of(w);
  const __m512i base = _mm512_set1_epi32(2 * base_of(w) / step);
  const __m512i reach = _mm512_set1_epi32((1 << w->bits) - 1);
  const __m512 unit = _mm512_set1_ps((float)step);
  for (int32_t i = 0; i < all; i += kTile) {
    // Groups before the last are of equal size.
    const __mmask16 of_last = i + kTile <= last ? 0 : i < last ? 0xFFFF << (last - i) : 0xFFFF;
    const __m512i count = _mm512_mask_set1_epi32(_mm512_set1_epi32((int)group_count(w, 0)), of_last,
                                                 (int)group_count(w, w->groups - 1));
    const __m512i ones = _mm512_loadu_si512(b->start + i);
    const __m512i half = _mm512_sub_epi32(ones, _mm512_srli_epi32(count, 1));  // of the sum
    _mm512_storeu_si512(b->start + i, _mm512_add_epi32(_mm512_mullo_epi32(base, half),
                                                       _mm512_mullo_epi32(reach, ones)));
    _mm512_storeu_ps(b->sum + i,
                     _mm512_div_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(half, half)), unit));
    const __m512 mean = _mm512_div_ps(_mm512_loadu_ps(b->scale + i), _mm512_cvtepi32_ps(count));
    const __mmask16 alive = _mm512_cmp_ps_mask(mean, _mm512_set1_ps(1e-30f), _CMP_GE_OQ);
    _mm512_storeu_ps(b->scale + i, _mm512_maskz_mul_ps(alive, mean, unit));
  }
}

// Signs and mean magnitudes: planes [C][1][rows] in the place of q.  K is whole chunks.
inline void binarize_avx512(const MatMul* op, int32_t index, const float* rows_x) {
  const PackedWeight* w = op->weight;
  Block b = block_at(op, index);
  const int rows = b.rows;
  const bool whole = op->act_group_size >= w->k;
  const __m512 zero = _mm512_setzero_ps();
  // The channels of a plane's bits in turn: lanes of two vectors.
  alignas(64) int32_t channel[kChunk];
  for (int bit = 0; bit < kChunk; bit++) channel[bit] = channel_of_bit(w->bits, bit);
  const __m512i low = _mm512_load_si512(channel), high = _mm512_load_si512(channel + 16);
  float magnitude[kBlockRows];
  for (int r = 0; r < rows; r++) {
    const float* x = rows_x + r * w->k;
    uint32_t* planes = (uint32_t*)b.q + r;
    __m512 row_sum = zero;
    for (int32_t g = 0; g < w->groups; g++) {
      const int64_t count = group_count(w, g);
      __m512 sum = zero, more = zero;
      int64_t ones = 0;
      for (int64_t k = 0; k < count; k += kChunk, x += kChunk, planes += rows) {
        _mm_prefetch((const char*)(x + kAhead), _MM_HINT_T0);
        _mm_prefetch((const char*)(x + kAhead + 16), _MM_HINT_T0);
        const __m512 first = _mm512_loadu_ps(x), second = _mm512_loadu_ps(x + 16);
        sum = _mm512_add_ps(sum, _mm512_abs_ps(first));
        more = _mm512_add_ps(more, _mm512_abs_ps(second));
        const __mmask16 below =
            _mm512_cmp_ps_mask(_mm512_permutex2var_ps(first, low, second), zero, _CMP_LT_OQ);
        const __mmask16 above =
            _mm512_cmp_ps_mask(_mm512_permutex2var_ps(first, high, second), zero, _CMP_LT_OQ);
        const uint32_t word = ~((uint32_t)above << 16 | (uint32_t)below);
        *planes = word;
        ones += __builtin_popcount(word);
      }
      sum = _mm512_add_ps(sum, more);
      row_sum = _mm512_add_ps(row_sum, sum);
      b.start[g * rows + r] = (int32_t)ones;
      if (!whole) b.scale[g * rows + r] = _mm512_reduce_add_ps(sum);
    }
    magnitude[r] = _mm512_reduce_add_ps(row_sum);
  }
  finish_signs(op, &b);
  for (int r = 0; r < rows; r++) {
    const float mean = magnitude[r] / (float)w->k;
    const bool broken = !(magnitude[r] <= 3.4028234e38f);
    for (int32_t g = 0; g < w->groups && (whole || broken); g++)
      b.scale[g * rows + r] = broken ? NAN : mean < 1e-30f ? 0 : mean * (float)step_of(w);
  }
}

}  // namespace
}  // namespace bitfold
