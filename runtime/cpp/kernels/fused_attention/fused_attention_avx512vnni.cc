// FusedAttention on AVX-512.

#include <immintrin.h>

#include "attention_simd.h"

namespace bitfold {
namespace {

struct V {
  typedef __m512 Vector;
  typedef __mmask16 Mask;
  static constexpr int kLanes = 16;
  static constexpr int kRows = 12;  // with two vectors each, and two of the other factor

  static Vector set(float value) { return _mm512_set1_ps(value); }
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
  static Mask first(int64_t lanes) { return (Mask)((1u << lanes) - 1); }
  static Vector load_masked(const float* from, Mask mask) {
    return _mm512_maskz_loadu_ps(mask, from);
  }
  static void store_masked(float* to, Mask mask, Vector v) { _mm512_mask_storeu_ps(to, mask, v); }
  static Vector select(Mask mask, Vector a, Vector b) { return _mm512_mask_blend_ps(mask, b, a); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector fnma(Vector a, Vector b, Vector c) { return _mm512_fnmadd_ps(a, b, c); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector div(Vector a, Vector b) { return _mm512_div_ps(a, b); }
  // Of NaN and a number these give the second operand.
  static Vector min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
  static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static float most(Vector v) { return _mm512_reduce_max_ps(v); }
  static float total(Vector v) { return _mm512_reduce_add_ps(v); }

  // p * 2**n
  static Vector scale(Vector p, Vector n) { return _mm512_scalef_ps(p, n); }
  static Vector round(Vector v) { return _mm512_roundscale_ps(v, 8); }

  // to[lane][row] = from[row][lane] for `count` rows of `lanes` elements, `stride` floats apart;
  // rows up to 16 are zeros.
  static void transpose(const float* from, int64_t stride, int64_t count, int64_t lanes, float* to,
                        int64_t to_stride) {
    Vector a[16], b[16];
    const Mask within = first(lanes);
    BITFOLD_UNROLL
    for (int i = 0; i < 16; i++)
      a[i] = i < count ? load_masked(from + i * stride, within) : _mm512_setzero_ps();
    BITFOLD_UNROLL
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    // Each 128-bit part p of a[4q + c] holds column 4p + c of rows 4q to 4q + 3.
    BITFOLD_UNROLL
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_shuffle_ps(b[i], b[i + 2], 0x44);
      a[i + 1] = _mm512_shuffle_ps(b[i], b[i + 2], 0xEE);
      a[i + 2] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0x44);
      a[i + 3] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
    }
    BITFOLD_UNROLL
    for (int c = 0; c < 4; c++) {
      const Vector even_low = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88);
      const Vector odd_low = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xDD);
      const Vector even_high = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88);
      const Vector odd_high = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xDD);
      b[c] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
      b[4 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
      b[8 + c] = _mm512_shuffle_f32x4(even_low, even_high, 0xDD);
      b[12 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xDD);
    }
    BITFOLD_UNROLL
    for (int i = 0; i < 16; i++)
      if (i < lanes) store(to + i * to_stride, b[i]);
  }

  // Lane i: the sum of from[i][0..15].
  static Vector sum_each(const float* from) {
    Vector a[16];
    BITFOLD_UNROLL
    for (int i = 0; i < 16; i++) a[i] = load(from + i * 16);
    BITFOLD_UNROLL
    for (int i = 0; i < 16; i += 2)
      a[i] = add(_mm512_unpacklo_ps(a[i], a[i + 1]), _mm512_unpackhi_ps(a[i], a[i + 1]));
    // Of rows i to i + 3, a partial sum in each 128-bit part.
    BITFOLD_UNROLL
    for (int i = 0; i < 16; i += 4)
      a[i] = add(_mm512_shuffle_ps(a[i], a[i + 2], 0x44), _mm512_shuffle_ps(a[i], a[i + 2], 0xEE));
    const Vector low = add(_mm512_shuffle_f32x4(a[0], a[4], 0x88),
                           _mm512_shuffle_f32x4(a[0], a[4], 0xDD));
    const Vector high = add(_mm512_shuffle_f32x4(a[8], a[12], 0x88),
                            _mm512_shuffle_f32x4(a[8], a[12], 0xDD));
    return add(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xDD));
  }
};

}  // namespace

const AttentionKernels kAttentionAvx512Vnni = {
    "avx512vnni", V::kRows, 8, rotate, packed_floats<V>, pack<V>, scratch_floats<V>, attend<V>,
    attend_chunk<V>};

}  // namespace bitfold
