// The low-rank branch that a node asks for, checked before any kernel sees it.
#pragma once

#include <vector>

#include "../kernels/lowbit_matmul/low_rank.h"
#include "node.h"

namespace bitfold::ops {

// The largest rank that is taken.
constexpr int64_t kMostRank = 512;

// A branch, and its U in the weight's tiles, which the branch points into.
struct HeldLowRank {
  LowRank value{};
  std::vector<uint8_t> up;
};

class LowRankInput {
 public:
  // Reads the inputs D (`down`) and U (`up`) of a weight where they are constant; a node without
  // them has no branch.  `paired`: gate and up rows are tiled apart.  Throws Refusal.
  LowRankInput(const OrtApi* api, const OrtKernelInfo* info, size_t down, size_t up,
               const PackedWeight& weight, bool paired);

  // Both inputs are constant, or missing: `value()` holds for good.
  bool complete() const { return complete_; }
  const LowRank& value() const { return held_.value; }

  // The branch of one call whose inputs are not all constant.  Throws Refusal.
  HeldLowRank at(const OrtApi* api, const OrtKernelContext* context) const;

 private:
  HeldLowRank checked(const Tensor& down, const Tensor& up) const;

  size_t down_, up_;
  int64_t n_, k_, tiles_;
  bool paired_, complete_ = true;
  HeldLowRank held_;
};

}  // namespace bitfold::ops
