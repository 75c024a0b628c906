// RMSNorm of a row on vectors of floats; an ISA's file defines Vec before it includes this.
//
// Internal linkage throughout.
#pragma once

#include <math.h>
#include <stdint.h>

namespace bitfold {
namespace {

// y = x / sqrt(mean of x^2 + epsilon) * gain; y may be x.
inline void rms_norm(const float* x, const float* gain, float epsilon, float* y, int64_t k) {
  constexpr int64_t kLanes = Vec::kLanes, kChains = 4;
  Vec::T sums[kChains];
#pragma GCC unroll 4
  for (int c = 0; c < kChains; c++) sums[c] = Vec::all(0);
  int64_t i = 0;
  for (; i + kChains * kLanes <= k; i += kChains * kLanes)
#pragma GCC unroll 4
    for (int c = 0; c < kChains; c++) {
      const Vec::T v = Vec::load(x + i + c * kLanes);
      sums[c] = Vec::multiply_add(v, v, sums[c]);
    }
  for (; i < k; i += kLanes) {
    const Vec::T v = k - i >= kLanes ? Vec::load(x + i) : Vec::load_part(x + i, k - i);
    sums[0] = Vec::multiply_add(v, v, sums[0]);
  }
  const float squares =
      Vec::sum(Vec::add(Vec::add(sums[0], sums[1]), Vec::add(sums[2], sums[3])));
  const Vec::T inverse = Vec::all(1 / sqrtf(squares / (float)k + epsilon));
  for (i = 0; i + kLanes <= k; i += kLanes)
    Vec::store(y + i, Vec::mul(Vec::mul(Vec::load(x + i), inverse), Vec::load(gain + i)));
  if (i < k) {
    const Vec::T v = Vec::mul(Vec::load_part(x + i, k - i), inverse);
    Vec::store_part(y + i, Vec::mul(v, Vec::load_part(gain + i, k - i)), k - i);
  }
}

}  // namespace
}  // namespace bitfold
