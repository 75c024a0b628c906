// Vectors of 8 floats; only translation units built for AVX2 include this.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace bitfold {
namespace {

struct Vec {
  typedef __m256 T;
  enum { kLog = 3, kLanes = 8, kRadix = 3 };

  static T load(const float* x) { return _mm256_loadu_ps(x); }
  static void store(float* y, T v) { _mm256_storeu_ps(y, v); }
  // The first `count` lanes; the others are zeros.
  static T load_part(const float* x, int64_t count) { return _mm256_maskload_ps(x, lanes(count)); }
  static void store_part(float* y, T v, int64_t count) { _mm256_maskstore_ps(y, lanes(count), v); }
  static T all(float value) { return _mm256_set1_ps(value); }
  static T add(T a, T b) { return _mm256_add_ps(a, b); }
  static T sub(T a, T b) { return _mm256_sub_ps(a, b); }
  static T mul(T a, T b) { return _mm256_mul_ps(a, b); }
  static T multiply_add(T a, T b, T c) { return _mm256_fmadd_ps(a, b, c); }
  static float sum(T v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  // Sums in the lanes whose bit BIT is 0, low lane less high one in the others.
  template <int BIT>
  static T within(T v) {
    T other = v;
    if (BIT == 0) other = _mm256_permute_ps(v, 0xb1);
    if (BIT == 1) other = _mm256_permute_ps(v, 0x4e);
    if (BIT == 2) other = _mm256_permute2f128_ps(v, v, 0x01);
    constexpr int kHigh = BIT == 0 ? 0xaa : BIT == 1 ? 0xcc : 0xf0;
    const T sign = _mm256_blend_ps(_mm256_set1_ps(1), _mm256_set1_ps(-1), kHigh);
    return _mm256_fmadd_ps(v, sign, other);
  }

 private:
  static __m256i lanes(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)count),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace
}  // namespace bitfold
