// The low-rank branch on AVX-512.

#include "../hadamard/vec_avx512.h"

namespace bitfold {
namespace {

inline Vec::T halves(const uint16_t* x) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)x));
}
inline Vec::T halves_part(const uint16_t* x, int64_t count) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), x));
}

constexpr int kRowsAtOnce = 6, kRanksAtOnce = 4, kRanksOfOne = 8;

}  // namespace
}  // namespace bitfold

#include "low_rank_simd.h"

namespace bitfold {

void project_avx512(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks) {
  return (branch->half ? project<true> : project<false>)(branch, x, k, rows, ranks);
}

void add_low_rank_avx512(const LowRank* branch, int64_t row, int32_t rows, int32_t tile,
                         int32_t tiles, float* const* sums) {
  return (branch->half ? add_low_rank<true> : add_low_rank<false>)(branch, row, rows, tile, tiles,
                                                                   sums);
}

}  // namespace bitfold
