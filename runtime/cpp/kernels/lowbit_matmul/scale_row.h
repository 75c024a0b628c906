// A row times a scale for each input, on vectors of floats; an ISA's file defines Vec before it
// includes this.
//
// Internal linkage throughout.
#pragma once

#include <stdint.h>

namespace bitfold {
namespace {

// y = x * scales; y may be x.
inline void scale_row(const float* x, const float* scales, float* y, int64_t k) {
  constexpr int64_t kLanes = Vec::kLanes;
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes)
    Vec::store(y + i, Vec::mul(Vec::load(x + i), Vec::load(scales + i)));
  if (i == k) return;
  const int64_t left = k - i;
  Vec::store_part(y + i, Vec::mul(Vec::load_part(x + i, left), Vec::load_part(scales + i, left)),
                  left);
}

}  // namespace
}  // namespace bitfold
