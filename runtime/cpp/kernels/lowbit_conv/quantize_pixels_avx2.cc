// Quantize pixels on AVX2, 8 of them side by side; see quantize_pixels_avx512vnni.cc.

#include "conv_avx2.h"

#include <math.h>

namespace bitfold {
namespace {

constexpr float kTiny = 1e-30f;
constexpr int32_t kInfinity = 0x7f800000;

// Bits of the largest |x| of each pixel; infinity's bits or more where a value is not finite.
inline __m256i reach_bits(const float* x, int64_t channels, int64_t plane, __m256i lanes) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  for (int64_t i = 0; i < channels; i++) {
    const __m256i bits = _mm256_maskload_epi32((const int*)(x + i * plane), lanes);
    most = _mm256_max_epi32(most, _mm256_and_si256(bits, magnitude));
  }
  return most;
}

// What one scale does to 8 pixels.
struct Scaling {
  __m256 inverse, scale;
};

inline Scaling scaling_of(__m256i reach) {
  const __m256 top = _mm256_set1_ps(127), amax = _mm256_castsi256_ps(reach);
  const __m256 broken =
      _mm256_castsi256_ps(_mm256_cmpgt_epi32(reach, _mm256_set1_epi32(kInfinity - 1)));
  const __m256 alive =
      _mm256_andnot_ps(broken, _mm256_cmp_ps(amax, _mm256_set1_ps(kTiny), _CMP_GE_OQ));
  const __m256 scale = _mm256_and_ps(alive, _mm256_div_ps(amax, top));
  return {_mm256_and_ps(alive, _mm256_div_ps(top, amax)),
          _mm256_blendv_ps(scale, _mm256_set1_ps(NAN), broken)};
}

// The code of one channel in the low byte of each lane, other bits zero.  What is NaN here
// becomes the integer indefinite, whose low byte is zero.
inline __m256i code(const float* x, __m256i lanes, __m256 inverse) {
  const __m256 value = _mm256_mul_ps(_mm256_maskload_ps(x, lanes), inverse);
  const __m256i rounded = _mm256_cvtps_epi32(
      _mm256_round_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  return _mm256_and_si256(rounded, _mm256_set1_epi32(255));
}

// The codes of up to four channels, a byte each.
inline __m256i codes_4(const float* x, int64_t channels, int64_t plane, __m256i lanes,
                       __m256 inverse) {
  if (channels <= 0) return _mm256_setzero_si256();
  __m256i all = code(x, lanes, inverse);
  if (channels > 1)
    all = _mm256_or_si256(all, _mm256_slli_epi32(code(x + plane, lanes, inverse), 8));
  if (channels > 2)
    all = _mm256_or_si256(all, _mm256_slli_epi32(code(x + 2 * plane, lanes, inverse), 16));
  if (channels > 3)
    all = _mm256_or_si256(all, _mm256_slli_epi32(code(x + 3 * plane, lanes, inverse), 24));
  return all;
}

// Write 16 channels of up to 8 pixels, given as four channels each of all pixels.
inline void write_16(const __m256i* v, int8_t* q, int64_t stride, int64_t pixels) {
  const __m256i ab = _mm256_unpacklo_epi32(v[0], v[1]), cd = _mm256_unpacklo_epi32(v[2], v[3]);
  const __m256i ef = _mm256_unpackhi_epi32(v[0], v[1]), gh = _mm256_unpackhi_epi32(v[2], v[3]);
  // of[j] holds pixels j and j + 4.
  const __m256i of[4] = {_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd),
                         _mm256_unpacklo_epi64(ef, gh), _mm256_unpackhi_epi64(ef, gh)};
  for (int j = 0; j < 4 && j < pixels; j++) {
    _mm_storeu_si128((__m128i*)(q + j * stride), _mm256_castsi256_si128(of[j]));
    if (j + 4 < pixels)
      _mm_storeu_si128((__m128i*)(q + (j + 4) * stride), _mm256_extracti128_si256(of[j], 1));
  }
}

}  // namespace

void quantize_pixels_avx2(const Conv* c, const float* x, const Pixels* p, int64_t first,
                          int64_t last) {
  const int64_t depth = conv_depth(c), plane = conv_pixels(c), shared = c->act_group_size;
  const int64_t size = c->weight->group_size < depth ? c->weight->group_size : depth;
  const __m256i byte_ones = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  for (int64_t i = first; i < last; i += 8) {
    const int64_t pixels = last - i < 8 ? last - i : 8;
    const __m256i lanes = lanes_of(0, pixels);
    Scaling now = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int32_t part = 0; part < p->parts; part++) {
      const int64_t begin = part * size;
      const float* from = x + begin * plane + i;
      if (begin % shared == 0) now = scaling_of(reach_bits(from, shared, plane, lanes));
      __m256i sum = _mm256_setzero_si256();
      for (int64_t channel = 0; channel < size; channel += 16, from += 16 * plane) {
        __m256i of[4];
        for (int j = 0; j < 4; j++) {
          of[j] = codes_4(from + 4 * j * plane, size - channel - 4 * j, plane, lanes, now.inverse);
          const __m256i pairs = _mm256_maddubs_epi16(byte_ones, of[j]);
          sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
        write_16(of, p->q + i * p->stride + begin + channel, p->stride, pixels);
      }
      const int64_t at = part * (p->count + 1) + i;
      const __m256i start = _mm256_mullo_epi32(sum, _mm256_set1_epi32(-p->offset));
      _mm256_maskstore_ps(p->scale + at, lanes, now.scale);
      _mm256_maskstore_epi32(p->start + at, lanes, start);
      _mm256_maskstore_ps(p->sum + at, lanes, _mm256_cvtepi32_ps(sum));
    }
  }
}

}  // namespace bitfold
