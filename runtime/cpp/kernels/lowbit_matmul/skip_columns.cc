#include "skip_columns.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "../scratch.h"

namespace bitfold {
namespace {

constexpr int64_t kRun = 16;

float score_of(const float* x, const float* norms, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i < count; i++) sum += std::fabs(x[i]) * norms[i];
  return sum;
}

}  // namespace

bool skip_columns(const Skip* skip, float* x, int64_t k) {
  const int64_t runs = (k + kRun - 1) / kRun;
  auto* scores =
      reinterpret_cast<float*>(thread_scratch(Scratch::kScores, 2 * runs * sizeof(float)));
  if (scores == nullptr) return false;
  for (int64_t run = 0; run < runs; run++) {
    scores[run] = score_of(x + run * kRun, skip->norms + run * kRun,
                           std::min(kRun, k - run * kRun));
    if (std::isnan(scores[run])) return true;
  }
  const auto kept = std::clamp<int64_t>(
      static_cast<int64_t>(std::ceil(static_cast<double>(skip->keep) * runs)), 1, runs);
  float* sorted = scores + runs;
  std::copy(scores, scores + runs, sorted);
  std::nth_element(sorted, sorted + kept - 1, sorted + runs, std::greater<float>());
  const float least = sorted[kept - 1];
  int64_t equal = kept - std::count_if(sorted, sorted + kept, [&](float s) { return s > least; });
  for (int64_t run = 0; run < runs; run++) {
    const bool keep = scores[run] > least || (scores[run] == least && equal-- > 0);
    if (!keep) std::fill(x + run * kRun, x + std::min(k, (run + 1) * kRun), 0.0f);
  }
  return true;
}

bool prepare_whole_row(PrepareRow prepare, const Prologue* p, const float* x, float* y, int64_t k,
                       float* scratch) {
  if (is_transformed(p))
    prepare(p, x, y, k, scratch);
  else
    std::copy(x, x + k, y);
  return p->skip.norms == nullptr || skip_columns(&p->skip, y, k);
}

}  // namespace bitfold
