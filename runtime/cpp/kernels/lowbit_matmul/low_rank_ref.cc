// Scalar: the plainest code that follows low_rank.h.

#include "low_rank.h"

#include "../scalar.h"

namespace bitfold {
namespace {

float factor_at(const LowRank* branch, const void* factor, int64_t at) {
  return branch->half ? half_to_float(((const uint16_t*)factor)[at]) : ((const float*)factor)[at];
}

}  // namespace

void project_ref(const LowRank* branch, const float* x, int64_t k, Span rows, Span ranks) {
  for (int64_t row = rows.first; row < rows.last; row++)
    for (int64_t rank = ranks.first; rank < ranks.last; rank++) {
      float sum = 0;
      for (int64_t i = 0; i < k; i++)
        sum += x[row * k + i] * factor_at(branch, branch->down, rank * k + i);
      branch->rows[row * branch->rank + rank] = sum;
    }
}

float low_rank_at(const LowRank* branch, int64_t row, int32_t tile, int lane) {
  const float* projected = branch->rows + row * branch->rank;
  float sum = 0;
  for (int64_t rank = 0; rank < branch->rank; rank++)
    sum += projected[rank] *
           factor_at(branch, branch->up, ((int64_t)tile * branch->rank + rank) * kTile + lane);
  return sum;
}

}  // namespace bitfold
