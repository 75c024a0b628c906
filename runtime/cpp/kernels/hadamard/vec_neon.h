// Vectors of 4 floats; only translation units built for NEON include this.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

namespace bitfold {
namespace {

struct Vec {
  typedef float32x4_t T;
  enum { kLog = 2, kLanes = 4, kRadix = 4 };

  static T load(const float* x) { return vld1q_f32(x); }
  static void store(float* y, T v) { vst1q_f32(y, v); }
  // The first `count` lanes; the others are zeros.
  static T load_part(const float* x, int64_t count) {
    if (count >= 4) return load(x);
    float v[4] = {0, 0, 0, 0};
    for (int64_t i = 0; i < count; i++) v[i] = x[i];
    return load(v);
  }
  static void store_part(float* y, T v, int64_t count) {
    if (count >= 4) return store(y, v);
    float out[4];
    store(out, v);
    for (int64_t i = 0; i < count; i++) y[i] = out[i];
  }
  static T all(float value) { return vdupq_n_f32(value); }
  static T add(T a, T b) { return vaddq_f32(a, b); }
  static T sub(T a, T b) { return vsubq_f32(a, b); }
  static T mul(T a, T b) { return vmulq_f32(a, b); }
  static T multiply_add(T a, T b, T c) { return vfmaq_f32(c, a, b); }
  static float sum(T v) { return vaddvq_f32(v); }

  // Sums in the lanes whose bit BIT is 0, low lane less high one in the others.
  template <int BIT>
  static T within(T v) {
    const T other = BIT == 0 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
    const uint32x4_t high = {0, BIT == 0 ? ~0u : 0, BIT == 0 ? 0 : ~0u, ~0u};
    return vbslq_f32(high, vsubq_f32(other, v), vaddq_f32(v, other));
  }
};

}  // namespace
}  // namespace bitfold
