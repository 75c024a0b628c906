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
  // The first `count` floats and zeros; at most kLanes, at least none.
  static Vector load_part(const float* from, int64_t count) {
    return _mm512_maskz_loadu_ps(lanes(count), from);
  }
  static void store_part(float* to, Vector v, int64_t count) {
    _mm512_mask_storeu_ps(to, lanes(count), v);
  }
  // The even and the odd elements of two vectors.
  static void split(Vector a, Vector b, float* even, float* odd) {
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    _mm512_storeu_ps(even, _mm512_permutex2var_ps(a, evens, b));
    _mm512_storeu_ps(odd, _mm512_permutex2var_ps(a, odds, b));
  }
};

}  // namespace

void depthwise_avx512(const Conv* c, int64_t image, int64_t first, int64_t last,
                      uint8_t* scratch) {
  const PackedWeight* w = c->weight;
  const Shift none = {nullptr, 0};
  convolve_depthwise<V>(c, image, first, last, scratch,
                        [&](int32_t tile, uint8_t* operands, float* scale) {
                          decoder(w)(w, tile, &none, operands);
                          _mm512_storeu_ps(scale, scales_at(w, tile));
                        });
}

int64_t depthwise_scratch_avx512(const Conv* c) { return depthwise_bytes(c, V::kLanes); }

}  // namespace bitfold
