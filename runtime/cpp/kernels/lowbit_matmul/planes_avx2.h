// Activations as bit planes on AVX2.
//
// Internal linkage throughout: only translation units built for AVX2 include this.
#pragma once

#include <immintrin.h>
#include <math.h>

#include "planes.h"

namespace bitfold {
namespace {

// The dword of a chunk, four channels, whose bytes give bits 8j + slot of a plane.
inline int dword_of_slot(const PackedWeight* w, int slot) {
  return channel_of_bit(w->bits, slot) / 4;
}

// Bytes of eight dwords in slot order, [slot][j], to the order of a plane's bits, [j][slot].
inline __m256i to_bit_order(__m256i slots) {
  const __m256i turn = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(slots, turn),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

template <int BIT>
inline uint32_t bits_at(__m256i bytes) {
  return (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(bytes, 7 - BIT));
}

// Turn a block's bytes [Kpad / 4][rows] into planes [C][act_bits][rows], in place: a row's planes
// of a chunk lie where its own first dwords were, or before.
inline void planes_of_bytes(const MatMul* op, Block* b) {
  const PackedWeight* w = op->weight;
  const int rows = b->rows, acts = op->act_bits;
  alignas(32) int32_t from[8];
  for (int slot = 0; slot < 8; slot++) from[slot] = dword_of_slot(w, slot) * rows;
  const __m256i index = _mm256_load_si256((const __m256i*)from);
  for (int32_t chunk = 0; chunk < w->chunks; chunk++)
    for (int r = 0; r < rows; r++) {
      const int32_t* q = b->q + (int64_t)chunk * 8 * rows + r;
      const __m256i bytes = to_bit_order(_mm256_i32gather_epi32((const int*)q, index, 4));
      uint32_t* plane = (uint32_t*)b->q + (int64_t)chunk * acts * rows + r;
      plane[0] = bits_at<0>(bytes);
      plane[rows] = bits_at<1>(bytes);
      if (acts > 2) plane[2 * rows] = bits_at<2>(bytes);
      if (acts > 3) plane[3 * rows] = bits_at<3>(bytes);
    }
  for (int32_t g = 0; g < w->groups; g++)
    for (int r = 0; r < rows; r++) {
      const int32_t at = g * rows + r;
      b->start[at] = start_of(op, (int32_t)b->sum[at], group_count(w, g));
    }
}

inline float sum_of(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

// Signs and mean magnitudes: planes [C][1][rows] in the place of q.  K is whole chunks.
inline void binarize_block(const MatMul* op, int32_t index, const float* rows_x) {
  const PackedWeight* w = op->weight;
  Block b = block_at(op, index);
  const int rows = b.rows;
  const bool whole = op->act_group_size >= w->k;
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  // Packing leaves channels 0-3, 8-11, 16-19, 24-27 in the lower half, the others in the upper.
  alignas(32) int32_t from[8];
  for (int slot = 0; slot < 8; slot++) {
    const int dword = dword_of_slot(w, slot);
    from[slot] = dword / 2 + dword % 2 * 4;
  }
  const __m256i slots = _mm256_load_si256((const __m256i*)from);
  for (int r = 0; r < rows; r++) {
    const float* x = rows_x + r * w->k;
    uint32_t* planes = (uint32_t*)b.q + r;
    float row_sum = 0;
    for (int32_t g = 0; g < w->groups; g++) {
      const int64_t count = group_count(w, g);
      __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                        _mm256_setzero_ps()};
      int32_t ones = 0;
      for (int64_t k = 0; k < count; k += kChunk, x += kChunk) {
        __m256i negative[4];
        for (int part = 0; part < 4; part++) {
          const __m256 value = _mm256_loadu_ps(x + 8 * part);
          sums[part] = _mm256_add_ps(sums[part], _mm256_and_ps(value, magnitude));
          negative[part] = _mm256_castps_si256(
              _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_LT_OQ));
        }
        const __m256i bytes =
            _mm256_packs_epi16(_mm256_packs_epi32(negative[0], negative[1]),
                               _mm256_packs_epi32(negative[2], negative[3]));
        const uint32_t word = ~(uint32_t)_mm256_movemask_epi8(
            to_bit_order(_mm256_permutevar8x32_epi32(bytes, slots)));
        *planes = word;
        planes += rows;
        ones += __builtin_popcount(word);
      }
      const float sum = sum_of(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]),
                                             _mm256_add_ps(sums[2], sums[3])));
      const int32_t at = g * rows + r;
      row_sum += sum;
      const float mean = sum / (float)count;
      b.scale[at] = mean < 1e-30f ? 0 : mean;
      b.sum[at] = (float)(2 * ones - (int32_t)count);
      b.start[at] = start_of(op, 2 * ones - (int32_t)count, count);
    }
    const float mean = row_sum / (float)w->k;
    const bool broken = !(row_sum <= 3.4028234e38f);
    for (int32_t g = 0; g < w->groups && (whole || broken); g++)
      b.scale[g * rows + r] = broken ? NAN : mean < 1e-30f ? 0 : mean;
  }
}

}  // namespace
}  // namespace bitfold
