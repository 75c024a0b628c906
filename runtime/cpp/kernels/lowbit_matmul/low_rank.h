// The low-rank branch of a matmul, U . (D . x) in floats: what is added to the low-bit sums.
//
// D . x is made once for each row before tiles are multiplied; U's part of a tile is added to the
// tile's sums on their way to Y.
#pragma once

#include <stdint.h>

#include "../packed_weight.h"

namespace bitfold {

struct LowRank {
  int32_t rank;      // R, or 0 for no branch
  bool half;         // factors are halves, not floats
  const void* down;  // D [R][k]
  const void* up;    // U [T][R][16], in the weight's tiles; zeros behind its rows
  float* rows;       // D . x, [M][R]
  bool far;          // factors do not wait in a core's own cache
};

// [first, last).
struct Span {
  int64_t first, last;
};

// Fill in `rows` for a few rows of x [M][k] and a few of D's.
typedef void (*Project)(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks);

// add_low_rank: add the branch to the sums [rows][16] of one or two tiles, for rows from `row` on.

void project_ref(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks);
// What is added to one output.
float low_rank_at(const LowRank* branch, int64_t row, int32_t tile, int lane);

#if defined(BITFOLD_X86)
void project_avx2(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks);
void add_low_rank_avx2(const LowRank* branch, int64_t row, int32_t rows, int32_t tile,
                       int32_t tiles, float* const* sums);
void project_avx512(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks);
void add_low_rank_avx512(const LowRank* branch, int64_t row, int32_t rows, int32_t tile,
                         int32_t tiles, float* const* sums);
#elif defined(BITFOLD_ARM64)
void project_neon(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks);
void add_low_rank_neon(const LowRank* branch, int64_t row, int32_t rows, int32_t tile,
                       int32_t tiles, float* const* sums);
#endif

}  // namespace bitfold
