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
  typedef __m256i Mask;
  static Mask mask_of(uint32_t bits) {
    const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int32_t)bits), each), each);
  }
  static Vector load_masked(const float* from, Mask mask) {
    return _mm256_maskload_ps(from, mask);
  }
  static void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
  // Elements x[at] and on, zero where the index is not in [0, count).
  static Vector load_within(const float* x, int64_t at, int64_t count) {
    if (at >= 0 && at + 8 <= count) return _mm256_loadu_ps(x + at);
    const __m256i there = _mm256_andnot_si256(lanes_of(0, -at), lanes_of(at, count));
    return x ? load_masked(x + at, there) : _mm256_setzero_ps();
  }
  static void store_part(float* to, Vector v, int64_t count) {
    if (count >= 8) {
      _mm256_storeu_ps(to, v);
    } else {
      _mm256_maskstore_ps(to, lanes_of(0, count), v);
    }
  }
  // The even and the odd elements of two vectors.
  static Vector even(Vector a, Vector b) {
    return _mm256_shuffle_ps(_mm256_permute2f128_ps(a, b, 0x20),
                             _mm256_permute2f128_ps(a, b, 0x31), 0x88);
  }
  static Vector odd(Vector a, Vector b) {
    return _mm256_shuffle_ps(_mm256_permute2f128_ps(a, b, 0x20),
                             _mm256_permute2f128_ps(a, b, 0x31), 0xDD);
  }
};

}  // namespace

void depthwise_avx2(const Conv* c, int64_t image, int64_t first, int64_t last, uint8_t* scratch) {
  const PackedWeight* w = c->weight;
  const auto decode_weights = [&](int32_t tile, uint8_t* operands, float* weights) {
    decoder(w)(w, dense_tile(w, tile), operands);
    for (int half = 0; half < 2; half++) {
      const int64_t at = 2 * (int64_t)tile + half;
      const __m256 scale = scales_at(w, at);
      __m256 zero = _mm256_set1_ps((float)w->offset);
      if (w->zero_points) zero = _mm256_add_ps(zero, zeros_at(w, at));
      for (int64_t tap = 0; tap < conv_taps(c); tap++) {
        const __m256i line =
            _mm256_loadu_si256((const __m256i*)(operands + tap / 4 * kLine + 32 * half));
        const __m256i byte = _mm256_and_si256(
            _mm256_srl_epi32(line, _mm_cvtsi32_si128(tap % 4 * 8)), _mm256_set1_epi32(255));
        const __m256 level = _mm256_sub_ps(_mm256_cvtepi32_ps(byte), zero);
        _mm256_storeu_ps(weights + tap * kTile + 8 * half, _mm256_mul_ps(level, scale));
      }
    }
  };
  convolve_depthwise<V>(c, image, first, last, scratch, decode_weights);
}

int64_t depthwise_scratch_avx2(const Conv* c) { return depthwise_bytes(c, V::kLanes); }

}  // namespace bitfold
