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

// Ask for a factor's numbers from index `at` on, which may lie behind its end.
template <bool HALF>
inline void fetch(const void* factor, int64_t at) {
  __builtin_prefetch((const char*)factor + at * (HALF ? 2 : 4));
}

// A single row comes by each number once, and from one run of them to the next: those of the next
// ranks, and of tiles ahead, are fetched early where they are far.
constexpr int64_t kTilesAhead = 4;

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
      if (ROWS == 1 && branch->far) fetch<HALF>(branch->down, (rank + RANKS + d) * k + i);
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

// `count` rows of x, up to ROWS, times all that are asked for of D's.
template <bool HALF, int ROWS>
void project_rows(const LowRank* branch, const float* x, int64_t k, int64_t row, int64_t count,
                  Span ranks) {
  if constexpr (ROWS > 1)
    if (count < ROWS) return project_rows<HALF, ROWS - 1>(branch, x, k, row, count, ranks);
  constexpr int kRanks = ROWS == 1 ? kRanksOfOne : kRanksAtOnce;
  int64_t rank = ranks.first;
  for (; rank + kRanks <= ranks.last; rank += kRanks)
    project_block<HALF, ROWS, kRanks>(branch, x, k, row, rank);
  for (; rank < ranks.last; rank++) project_block<HALF, ROWS, 1>(branch, x, k, row, rank);
}

template <bool HALF>
void project(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks) {
  for (int64_t row = rows.first; row < rows.last; row += kRowsAtOnce)
    project_rows<HALF, kRowsAtOnce>(branch, x, k, row, rows.last - row, ranks);
}

// `rows` is D . x, [ROWS][R]; `up` is the index of U's part of the first of TILES tiles.
template <bool HALF, int ROWS, int TILES>
void add_block(const LowRank* branch, const float* rows, int64_t up, float* const* sums) {
  constexpr int kParts = kTile / (int)Vec::kLanes, kVectors = TILES * kParts;
  // A few sums would be chains that wait for one another: each is split in several.
  constexpr int kSums = ROWS * kVectors, kSplit = kSums >= 8 ? 1 : kSums >= 4 ? 2 : 4;
  const int64_t ranks = branch->rank;
  Vec::T acc[kSplit][kVectors][ROWS];
  BITFOLD_UNROLL
  for (int v = 0; v < kVectors; v++)
    BITFOLD_UNROLL
    for (int r = 0; r < ROWS; r++) {
      acc[0][v][r] = Vec::load(sums[v / kParts] + r * kTile + v % kParts * Vec::kLanes);
      BITFOLD_UNROLL
      for (int s = 1; s < kSplit; s++) acc[s][v][r] = Vec::all(0);
    }
  const auto add = [&](int64_t rank, int s) __attribute__((always_inline)) {
    Vec::T factor[kVectors];
    BITFOLD_UNROLL
    for (int v = 0; v < kVectors; v++) {
      const int64_t at = up + ((v / kParts) * ranks + rank) * kTile + v % kParts * Vec::kLanes;
      factor[v] = factors<HALF>(branch->up, at);
      if (ROWS == 1 && branch->far) fetch<HALF>(branch->up, at + kTilesAhead * ranks * kTile);
    }
    BITFOLD_UNROLL
    for (int r = 0; r < ROWS; r++) {
      const Vec::T projected = Vec::all(rows[r * ranks + rank]);
      BITFOLD_UNROLL
      for (int v = 0; v < kVectors; v++)
        acc[s][v][r] = Vec::multiply_add(factor[v], projected, acc[s][v][r]);
    }
  };
  int64_t rank = 0;
  for (; rank + kSplit <= ranks; rank += kSplit)
    BITFOLD_UNROLL
    for (int s = 0; s < kSplit; s++) add(rank + s, s);
  for (; rank < ranks; rank++) add(rank, 0);
  BITFOLD_UNROLL
  for (int v = 0; v < kVectors; v++)
    BITFOLD_UNROLL
    for (int r = 0; r < ROWS; r++) {
      BITFOLD_UNROLL
      for (int s = 1; s < kSplit; s++) acc[0][v][r] = Vec::add(acc[0][v][r], acc[s][v][r]);
      Vec::store(sums[v / kParts] + r * kTile + v % kParts * Vec::kLanes, acc[0][v][r]);
    }
}

template <bool HALF, int TILES>
constexpr void (*kAddBlocks[])(const LowRank*, const float*, int64_t, float* const*) = {
    add_block<HALF, 1, TILES>, add_block<HALF, 2, TILES>, add_block<HALF, 3, TILES>,
    add_block<HALF, 4, TILES>, add_block<HALF, 5, TILES>, add_block<HALF, 6, TILES>};

template <bool HALF>
void add_low_rank(const LowRank* branch, int64_t row, int32_t rows, int32_t tile, int32_t tiles,
                  float* const* sums) {
  const float* projected = branch->rows + row * branch->rank;
  const int64_t each = branch->rank * kTile;
  if ((int)Vec::kLanes == kTile && tiles == 2)
    return kAddBlocks<HALF, 2>[rows - 1](branch, projected, tile * each, sums);
  for (int32_t t = 0; t < tiles; t++)
    kAddBlocks<HALF, 1>[rows - 1](branch, projected, (tile + t) * each, sums + t);
}

}  // namespace
}  // namespace bitfold
