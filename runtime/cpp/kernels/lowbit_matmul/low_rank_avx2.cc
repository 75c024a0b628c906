// The low-rank branch on AVX2.

#include "../hadamard/vec_avx2.h"

namespace bitfold {
namespace {

inline Vec::T halves(const uint16_t* x) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)x));
}
inline Vec::T halves_part(const uint16_t* x, int64_t count) {
  uint16_t part[8] = {};
  for (int64_t i = 0; i < count; i++) part[i] = x[i];
  return halves(part);
}

constexpr int kRowsAtOnce = 2, kRanksAtOnce = 4, kRanksOfOne = 8;

}  // namespace
}  // namespace bitfold

#include "low_rank_simd.h"

namespace bitfold {

void project_avx2(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks) {
  return (branch->half ? project<true> : project<false>)(branch, x, k, rows, ranks);
}

void add_low_rank_avx2(const LowRank* branch, int64_t row, int32_t rows, int32_t tile,
                       int32_t tiles, float* const* sums) {
  return (branch->half ? add_low_rank<true> : add_low_rank<false>)(branch, row, rows, tile, tiles,
                                                                   sums);
}

}  // namespace bitfold
