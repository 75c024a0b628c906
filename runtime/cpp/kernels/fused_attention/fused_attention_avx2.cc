// FusedAttention on AVX2.

#include <immintrin.h>

#include "attention_simd.h"

namespace bitfold {
namespace {

struct V {
  typedef __m256 Vector;
  typedef __m256i Mask;
  static constexpr int kLanes = 8;
  static constexpr int kRows = 6;  // with two vectors each, and two of the other factor

  static Vector set(float value) { return _mm256_set1_ps(value); }
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
  static Mask first(int64_t lanes) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)lanes),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vector load_masked(const float* from, Mask mask) {
    return _mm256_maskload_ps(from, mask);
  }
  static void store_masked(float* to, Mask mask, Vector v) { _mm256_maskstore_ps(to, mask, v); }
  static Vector select(Mask mask, Vector a, Vector b) {
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask));
  }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector fnma(Vector a, Vector b, Vector c) { return _mm256_fnmadd_ps(a, b, c); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector div(Vector a, Vector b) { return _mm256_div_ps(a, b); }
  // Of NaN and a number these give the second operand.
  static Vector min(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static float most(Vector v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
  static float total(Vector v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  static Vector round(Vector v) {
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // p * 2**n, in two factors, so that it reaches denormals.
  static Vector scale(Vector p, Vector n) {
    const __m256i whole = _mm256_cvtps_epi32(n), low = _mm256_srai_epi32(whole, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i a = _mm256_slli_epi32(_mm256_add_epi32(low, bias), 23);
    const __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, low), bias), 23);
    return mul(mul(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
  }

  // to[lane][row] = from[row][lane] for `count` rows of `lanes` elements, `stride` floats apart;
  // rows up to 8 are zeros.
  static void transpose(const float* from, int64_t stride, int64_t count, int64_t lanes, float* to,
                        int64_t to_stride) {
    Vector a[8], b[8];
    const Mask within = first(lanes);
    BITFOLD_UNROLL
    for (int i = 0; i < 8; i++)
      a[i] = i < count ? load_masked(from + i * stride, within) : _mm256_setzero_ps();
    BITFOLD_UNROLL
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    // Each 128-bit part p of a[4q + c] holds column 4p + c of rows 4q to 4q + 3.
    BITFOLD_UNROLL
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
      a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xEE);
      a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
      a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
    }
    BITFOLD_UNROLL
    for (int c = 0; c < 4; c++) {
      b[c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x20);
      b[4 + c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x31);
    }
    BITFOLD_UNROLL
    for (int i = 0; i < 8; i++)
      if (i < lanes) store(to + i * to_stride, b[i]);
  }

  // Lane i: the sum of from[i][0..7].
  static Vector sum_each(const float* from) {
    Vector a[8];
    BITFOLD_UNROLL
    for (int i = 0; i < 8; i++) a[i] = load(from + i * 8);
    BITFOLD_UNROLL
    for (int i = 0; i < 8; i += 4)
      a[i] = _mm256_hadd_ps(_mm256_hadd_ps(a[i], a[i + 1]), _mm256_hadd_ps(a[i + 2], a[i + 3]));
    return add(_mm256_permute2f128_ps(a[0], a[4], 0x20), _mm256_permute2f128_ps(a[0], a[4], 0x31));
  }
};

}  // namespace

const AttentionKernels kAttentionAvx2 = {
    "avx2", V::kRows, V::kRows, rotate, packed_floats<V>, pack<V>, scratch_floats<V>, attend<V>,
    attend_chunk<V>};

}  // namespace bitfold
