// Vectors of 16 floats; only translation units built for AVX-512 include this.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace bitfold {
namespace {

struct Vec {
  typedef __m512 T;
  enum { kLog = 4, kLanes = 16, kRadix = 4 };

  static T load(const float* x) { return _mm512_loadu_ps(x); }
  static void store(float* y, T v) { _mm512_storeu_ps(y, v); }
  // The first `count` lanes; the others are zeros.
  static T load_part(const float* x, int64_t count) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), x);
  }
  static void store_part(float* y, T v, int64_t count) {
    _mm512_mask_storeu_ps(y, (__mmask16)((1u << count) - 1), v);
  }
  static T all(float value) { return _mm512_set1_ps(value); }
  static T add(T a, T b) { return _mm512_add_ps(a, b); }
  static T sub(T a, T b) { return _mm512_sub_ps(a, b); }
  static T mul(T a, T b) { return _mm512_mul_ps(a, b); }
  static T multiply_add(T a, T b, T c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(T v) { return _mm512_reduce_add_ps(v); }

  // Sums in the lanes whose bit BIT is 0, low lane less high one in the others.
  template <int BIT>
  static T within(T v) {
    T other;
    if (BIT == 0) other = _mm512_permute_ps(v, 0xb1);
    if (BIT == 1) other = _mm512_permute_ps(v, 0x4e);
    if (BIT == 2) other = _mm512_shuffle_f32x4(v, v, 0xb1);
    if (BIT == 3) other = _mm512_shuffle_f32x4(v, v, 0x4e);
    constexpr __mmask16 kHigh[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};
    const T one = _mm512_set1_ps(1), sign = _mm512_mask_mov_ps(one, kHigh[BIT], _mm512_set1_ps(-1));
    return _mm512_fmadd_ps(v, sign, other);
  }
};

}  // namespace
}  // namespace bitfold
