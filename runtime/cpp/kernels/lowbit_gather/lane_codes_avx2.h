// The codes of one lane in a chunk, for AVX2 and AVX-512.
//
// Internal linkage throughout: only translation units built for AVX2 or more include this.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "../packed_weight.h"

namespace bitfold {
namespace {

// Piece I of the codes of every step, a dword each: of the lane's words, one of each line.
template <int BITS, int I>
inline __m256i lane_piece(__m256i words) {
  alignas(32) int32_t line[kSteps], at[kSteps], low[kSteps], mask[kSteps];
  for (int step = 0; step < kSteps; step++) {
    const Piece p = piece_of(BITS, step, I);
    line[step] = p.line, at[step] = p.at, low[step] = p.low;
    mask[step] = (int32_t)(((1u << p.width) - 1) * 0x01010101u);
  }
  const auto all = [](const int32_t* each) { return _mm256_load_si256((const __m256i*)each); };
  const __m256i fields = _mm256_srlv_epi32(_mm256_permutevar8x32_epi32(words, all(line)), all(at));
  return _mm256_sllv_epi32(_mm256_and_si256(fields, all(mask)), all(low));
}

template <int BITS>
inline void lane_codes(const uint8_t* lane, uint8_t* codes) {
  alignas(32) int32_t each[8] = {};
  for (int i = 0; i < BITS; i++) memcpy(each + i, lane + i * kLine, sizeof *each);
  const __m256i words = _mm256_load_si256((const __m256i*)each);
  __m256i c = _mm256_setzero_si256();
  if (BITS & 12) c = lane_piece<BITS, 0>(words);
  if (BITS & 3) c = _mm256_or_si256(c, lane_piece<BITS, 1>(words));
  if ((BITS & 3) == 3) c = _mm256_or_si256(c, lane_piece<BITS, 2>(words));
  _mm256_store_si256((__m256i*)codes, c);
}

}  // namespace
}  // namespace bitfold
