// The low-rank branch on vectors of floats; an ISA's file defines, before it includes this, Vec,
// `halves` and `halves_part` (vectors of floats of so many halves) and the sizes of blocks:
// kRowsAtOnce rows by kRanksAtOnce of D's, and kRanksOfOne of D's for a single row.
//
// Internal linkage throughout.
#pragma once

#include <stdint.h>

#include "low_rank.h"

#define BITFOLD_UNROLL _Pragma("GCC unroll 16")

namespace bitfold {
namespace {

// A factor's numbers from index `at` on.
template <bool HALF>
inline Vec::T factors(const void* factor, int64_t at) {
  return HALF ? halves((const uint16_t*)factor + at) : Vec::load((const float*)factor + at);
}

template <bool HALF>
inline Vec::T factors_part(const void* factor, int64_t at, int64_t count) {
  return HALF ? halves_part((const uint16_t*)factor + at, count)
              : Vec::load_part((const float*)factor + at, count);
}

// ROWS rows of x times RANKS rows of D.
template <bool HALF, int ROWS, int RANKS>
void project_block(const LowRank* branch, const float* x, int64_t k, int64_t row, int64_t rank) {
  Vec::T sums[ROWS][RANKS];
  BITFOLD_UNROLL
  for (int r = 0; r < ROWS; r++)
    BITFOLD_UNROLL
    for (int d = 0; d < RANKS; d++) sums[r][d] = Vec::all(0);
  x += row * k;
  int64_t i = 0;
  for (; i + Vec::kLanes <= k; i += Vec::kLanes) {
    Vec::T values[ROWS];
    BITFOLD_UNROLL
    for (int r = 0; r < ROWS; r++) values[r] = Vec::load(x + r * k + i);
    BITFOLD_UNROLL
    for (int d = 0; d < RANKS; d++) {
      const Vec::T down = factors<HALF>(branch->down, (rank + d) * k + i);
      BITFOLD_UNROLL
      for (int r = 0; r < ROWS; r++) sums[r][d] = Vec::multiply_add(values[r], down, sums[r][d]);
    }
  }
  for (int d = 0; d < RANKS && i < k; d++) {
    const Vec::T down = factors_part<HALF>(branch->down, (rank + d) * k + i, k - i);
    for (int r = 0; r < ROWS; r++)
      sums[r][d] = Vec::multiply_add(Vec::load_part(x + r * k + i, k - i), down, sums[r][d]);
  }
  BITFOLD_UNROLL
  for (int r = 0; r < ROWS; r++)
    BITFOLD_UNROLL
    for (int d = 0; d < RANKS; d++)
      branch->rows[(row + r) * branch->rank + rank + d] = Vec::sum(sums[r][d]);
}

// ROWS rows of x times all that are asked for of D's.
template <bool HALF, int ROWS, int RANKS>
void project_rows(const LowRank* branch, const float* x, int64_t k, int64_t row, Span ranks) {
  int64_t rank = ranks.first;
  for (; rank + RANKS <= ranks.last; rank += RANKS)
    project_block<HALF, ROWS, RANKS>(branch, x, k, row, rank);
  for (; rank < ranks.last; rank++) project_block<HALF, ROWS, 1>(branch, x, k, row, rank);
}

template <bool HALF>
void project(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks) {
  int64_t row = rows.first;
  for (; row + kRowsAtOnce <= rows.last; row += kRowsAtOnce)
    project_rows<HALF, kRowsAtOnce, kRanksAtOnce>(branch, x, k, row, ranks);
  for (; row < rows.last; row++)
    project_rows<HALF, 1, kRanksOfOne>(branch, x, k, row, ranks);
}

// Few rows are few chains of sums that wait for one another: each is split in several.
template <int ROWS>
constexpr int kChains = ROWS == 1 ? 4 : ROWS <= 3 ? 2 : 1;

// `rows` is D . x, [ROWS][R]; `up` is U's part of the tile, from index `at` on.
template <bool HALF, int ROWS>
void add_block(const LowRank* branch, const float* rows, int64_t at, float* sums) {
  constexpr int kSplit = kChains<ROWS>;
  const int64_t ranks = branch->rank;
  for (int lane = 0; lane < kTile; lane += Vec::kLanes) {
    Vec::T acc[kSplit][ROWS];
    BITFOLD_UNROLL
    for (int r = 0; r < ROWS; r++)
      BITFOLD_UNROLL
      for (int s = 0; s < kSplit; s++)
        acc[s][r] = s ? Vec::all(0) : Vec::load(sums + r * kTile + lane);
    int64_t rank = 0;
    for (; rank + kSplit <= ranks; rank += kSplit)
      BITFOLD_UNROLL
      for (int s = 0; s < kSplit; s++) {
        const Vec::T up = factors<HALF>(branch->up, at + (rank + s) * kTile + lane);
        BITFOLD_UNROLL
        for (int r = 0; r < ROWS; r++)
          acc[s][r] = Vec::multiply_add(up, Vec::all(rows[r * ranks + rank + s]), acc[s][r]);
      }
    for (; rank < ranks; rank++) {
      const Vec::T up = factors<HALF>(branch->up, at + rank * kTile + lane);
      BITFOLD_UNROLL
      for (int r = 0; r < ROWS; r++)
        acc[0][r] = Vec::multiply_add(up, Vec::all(rows[r * ranks + rank]), acc[0][r]);
    }
    BITFOLD_UNROLL
    for (int r = 0; r < ROWS; r++) {
      BITFOLD_UNROLL
      for (int s = 1; s < kSplit; s++) acc[0][r] = Vec::add(acc[0][r], acc[s][r]);
      Vec::store(sums + r * kTile + lane, acc[0][r]);
    }
  }
}

template <bool HALF>
void add_low_rank(const LowRank* branch, int64_t row, int32_t rows, int32_t tile, float* sums) {
  static constexpr void (*kBlocks[])(const LowRank*, const float*, int64_t, float*) = {
      add_block<HALF, 1>, add_block<HALF, 2>, add_block<HALF, 3>,
      add_block<HALF, 4>, add_block<HALF, 5>, add_block<HALF, 6>};
  kBlocks[rows - 1](branch, branch->rows + row * branch->rank,
                    (int64_t)tile * branch->rank * kTile, sums);
}

}  // namespace
}  // namespace bitfold
