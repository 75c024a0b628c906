// The codes of one lane in a chunk, for AVX2 and AVX-512.
//
// Internal linkage throughout: only translation units built for AVX2 or more include this.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "../packed_weight.h"

namespace bitfold {
namespace {

// Bits LOW and up of 32 codes, dword s those of channels 4s to 4s + 3: the plane of width W, which
// is in words LOW and up of the lane's.
template <int W, int LOW>
inline __m256i lane_plane(__m256i words) {
  constexpr int kFields = 8 / W;
  const __m256i steps = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  if (W == 8) return words;
  const __m256i line =
      _mm256_add_epi32(_mm256_srli_epi32(_mm256_mullo_epi32(steps, _mm256_set1_epi32(W)), 3),
                       _mm256_set1_epi32(LOW));
  const __m256i shift = _mm256_mullo_epi32(
      _mm256_and_si256(steps, _mm256_set1_epi32(kFields - 1)), _mm256_set1_epi32(W));
  const __m256i fields = _mm256_srlv_epi32(_mm256_permutevar8x32_epi32(words, line), shift);
  return _mm256_slli_epi32(_mm256_and_si256(fields, _mm256_set1_epi8((1 << (W & 7)) - 1)), LOW);
}

template <int BITS>
inline void lane_codes(const uint8_t* lane, uint8_t* codes) {
  alignas(32) int32_t each[8] = {};
  for (int i = 0; i < BITS; i++) memcpy(each + i, lane + i * kLine, sizeof *each);
  const __m256i words = _mm256_load_si256((const __m256i*)each);
  __m256i c = _mm256_setzero_si256();
  if (BITS & 8) c = lane_plane<8, 0>(words);
  if (BITS & 4) c = lane_plane<4, 0>(words);
  if (BITS & 2) c = _mm256_or_si256(c, lane_plane<2, BITS & 4>(words));
  if (BITS & 1) c = _mm256_or_si256(c, lane_plane<1, BITS & 6>(words));
  _mm256_store_si256((__m256i*)codes, c);
}

}  // namespace
}  // namespace bitfold
