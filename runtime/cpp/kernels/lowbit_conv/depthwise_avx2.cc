// Depthwise convolution on AVX2.

#include "conv_avx2.h"
#include "depthwise.h"

namespace bitfold {
namespace {

struct V {
  typedef __m256 Vector;
  static constexpr int kLanes = 8;
  static Vector set(float value) { return _mm256_set1_ps(value); }
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  // In this order of operands NaN stays.
  static Vector clamp(Vector v, Vector least, Vector most) {
    return _mm256_min_ps(most, _mm256_max_ps(least, v));
  }
  // The first `count` floats and zeros; at most kLanes, at least none.
  static Vector load_part(const float* from, int64_t count) {
    return count >= 8 ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, lanes_of(0, count));
  }
  static void store_part(float* to, Vector v, int64_t count) {
    if (count >= 8) {
      _mm256_storeu_ps(to, v);
    } else {
      _mm256_maskstore_ps(to, lanes_of(0, count), v);
    }
  }
  // The even and the odd elements of two vectors.
  static void split(Vector a, Vector b, float* even, float* odd) {
    const __m256 low = _mm256_permute2f128_ps(a, b, 0x20);
    const __m256 high = _mm256_permute2f128_ps(a, b, 0x31);
    _mm256_storeu_ps(even, _mm256_shuffle_ps(low, high, 0x88));
    _mm256_storeu_ps(odd, _mm256_shuffle_ps(low, high, 0xDD));
  }
};

}  // namespace

void depthwise_avx2(const Conv* c, int64_t image, int64_t first, int64_t last, uint8_t* scratch) {
  const PackedWeight* w = c->weight;
  convolve_depthwise<V>(c, image, first, last, scratch,
                        [&](int32_t tile, uint8_t* operands, float* scale) {
                          decoder(w)(w, tile, operands);
                          _mm256_storeu_ps(scale, scales_at(w, 2 * (int64_t)tile));
                          _mm256_storeu_ps(scale + 8, scales_at(w, 2 * (int64_t)tile + 1));
                        });
}

int64_t depthwise_scratch_avx2(const Conv* c) { return depthwise_bytes(c, V::kLanes); }

}  // namespace bitfold
