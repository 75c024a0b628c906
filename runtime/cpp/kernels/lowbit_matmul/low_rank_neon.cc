// The low-rank branch on NEON.

#include "../hadamard/vec_neon.h"

namespace bitfold {
namespace {

inline Vec::T halves(const uint16_t* x) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x)));
}
inline Vec::T halves_part(const uint16_t* x, int64_t count) {
  uint16_t part[4] = {};
  for (int64_t i = 0; i < count; i++) part[i] = x[i];
  return halves(part);
}

constexpr int kRowsAtOnce = 4, kRanksAtOnce = 4, kRanksOfOne = 8;

}  // namespace
}  // namespace bitfold

#include "low_rank_simd.h"

namespace bitfold {

void project_neon(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks) {
  return (branch->half ? project<true> : project<false>)(branch, x, k, rows, ranks);
}

void add_low_rank_neon(const LowRank* branch, int64_t row, int32_t rows, int32_t tile,
                       int32_t tiles, float* const* sums) {
  return (branch->half ? add_low_rank<true> : add_low_rank<false>)(branch, row, rows, tile, tiles,
                                                                   sums);
}

}  // namespace bitfold
