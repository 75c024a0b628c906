// The Hadamard transform that a node asks for, checked before any kernel sees it.
#pragma once

#include <vector>

#include "../kernels/hadamard/hadamard.h"
#include "node.h"

namespace bitfold::ops {

// The largest order of a base matrix.
constexpr int64_t kMostBase = 512;

class HadamardInput {
 public:
  // No transform: `value().size` is 0.
  HadamardInput() = default;
  // Reads the attribute `name`, the size, and the constant input `index`, the base matrix; a node
  // without that input has a power of two.  Throws Refusal.
  HadamardInput(const OrtApi* api, const OrtKernelInfo* info, const char* name, size_t index);
  // The value points into this.
  HadamardInput(const HadamardInput&) = delete;
  HadamardInput& operator=(const HadamardInput&) = delete;

  const Hadamard& value() const { return value_; }

 private:
  void read_base(const Tensor& base);

  Hadamard value_{};
  std::vector<uint16_t> signs_;
};

}  // namespace bitfold::ops
