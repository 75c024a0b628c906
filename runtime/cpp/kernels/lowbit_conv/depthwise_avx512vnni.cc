// Depthwise convolution on AVX-512.

#include "conv_avx512.h"
#include "depthwise.h"

namespace bitfold {
namespace {

struct V {
  typedef __m512 Vector;
  static constexpr int kLanes = 16;
  static Vector set(float value) { return _mm512_set1_ps(value); }
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  // In this order of operands NaN stays.
  static Vector clamp(Vector v, Vector least, Vector most) {
    return _mm512_min_ps(most, _mm512_max_ps(least, v));
  }
  static __mmask16 lanes(int64_t count) {
    return (__mmask16)(count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1u << count) - 1);
  }
  typedef __mmask16 Mask;
  static Mask mask_of(uint32_t bits) { return (__mmask16)bits; }
  static Vector load_masked(const float* from, Mask mask) {
    return _mm512_maskz_loadu_ps(mask, from);
  }
  static void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
  // Elements x[at] and on, zero where the index is not in [0, count).
  static Vector load_within(const float* x, int64_t at, int64_t count) {
    const __mmask16 there = lanes(count - at) & (__mmask16)~lanes(-at);
    return x ? load_masked(x + at, there) : _mm512_setzero_ps();
  }
  static void store_part(float* to, Vector v, int64_t count) {
    _mm512_mask_storeu_ps(to, lanes(count), v);
  }
  // The even and the odd elements of two vectors.
  static Vector even(Vector a, Vector b) {
    const __m512i from =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, from, b);
  }
  static Vector odd(Vector a, Vector b) {
    const __m512i from =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, from, b);
  }
};

}  // namespace

void depthwise_avx512(const Conv* c, int64_t image, int64_t first, int64_t last,
                      uint8_t* scratch) {
  const PackedWeight* w = c->weight;
  const Shift none = {nullptr, 0};
  const auto decode_weights = [&](int32_t tile, uint8_t* operands, float* weights) {
    decoder(w)(w, dense_tile(w, tile), 0, w->chunks, &none, operands);
    const __m512 scale = scales_at(w, tile);
    __m512 zero = _mm512_set1_ps((float)w->offset);
    if (w->zero_points) zero = _mm512_add_ps(zero, zeros_at(w->zero_points, tile));
    for (int64_t tap = 0; tap < conv_taps(c); tap++) {
      const __m512i line = _mm512_load_si512(operands + tap / 4 * kLine);
      const __m512i byte = _mm512_and_si512(_mm512_srl_epi32(line, _mm_cvtsi32_si128(tap % 4 * 8)),
                                            _mm512_set1_epi32(255));
      const __m512 level = _mm512_sub_ps(_mm512_cvtepi32_ps(byte), zero);
      _mm512_storeu_ps(weights + tap * kTile, _mm512_mul_ps(level, scale));
    }
  };
  convolve_depthwise<V>(c, image, first, last, scratch, decode_weights);
}

int64_t depthwise_scratch_avx512(const Conv* c) { return depthwise_bytes(c, V::kLanes); }

}  // namespace bitfold
