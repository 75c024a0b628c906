// Quantize pixels on AVX-512: 16 of them side by side, channel after channel.
//
// Plain multiplications and divisions in f32, in the specification's order, as in
// quantize_activation_avx512vnni.cc.

#include "conv_avx512.h"

#include <math.h>

namespace bitfold {
namespace {

constexpr float kTiny = 1e-30f;
constexpr int32_t kInfinity = 0x7f800000;

// Bits of the largest |x| of each pixel; infinity's bits or more where a value is not finite.
inline __m512i reach_bits(const float* x, int64_t channels, int64_t plane, __mmask16 lanes) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512(), other = most;
  int64_t i = 0;
  for (; i + 2 <= channels; i += 2) {
    const __m512i a = _mm512_maskz_loadu_epi32(lanes, x + i * plane);
    const __m512i b = _mm512_maskz_loadu_epi32(lanes, x + (i + 1) * plane);
    most = _mm512_max_epi32(most, _mm512_and_si512(a, magnitude));
    other = _mm512_max_epi32(other, _mm512_and_si512(b, magnitude));
  }
  if (i < channels) {
    const __m512i a = _mm512_maskz_loadu_epi32(lanes, x + i * plane);
    most = _mm512_max_epi32(most, _mm512_and_si512(a, magnitude));
  }
  return _mm512_max_epi32(most, other);
}

// What one scale does to 16 pixels.
struct Scaling {
  __m512 inverse, scale;
};

inline Scaling scaling_of(__m512i reach) {
  const __m512 top = _mm512_set1_ps(127), amax = _mm512_castsi512_ps(reach);
  const __mmask16 broken = _mm512_cmpge_epi32_mask(reach, _mm512_set1_epi32(kInfinity));
  const __mmask16 alive =
      _mm512_cmp_ps_mask(amax, _mm512_set1_ps(kTiny), _CMP_GE_OQ) & (__mmask16)~broken;
  const __m512 scale = _mm512_maskz_div_ps(alive, amax, top);
  return {_mm512_maskz_div_ps(alive, top, amax),
          _mm512_mask_mov_ps(scale, broken, _mm512_set1_ps(NAN))};
}

// The codes of one channel.  What is NaN here becomes any code: its scale is NaN.
inline __m512i code(const float* x, __mmask16 lanes, __m512 inverse) {
  const __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x), inverse);
  return _mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// The codes of up to four channels, a byte of each lane for each.
inline __m512i codes_4(const float* x, int64_t channels, int64_t plane, __mmask16 lanes,
                       __m512 inverse) {
  const __m512i none = _mm512_setzero_si512();
  if (channels <= 0) return none;
  const __m512i a = code(x, lanes, inverse);
  const __m512i b = channels > 1 ? code(x + plane, lanes, inverse) : none;
  const __m512i c = channels > 2 ? code(x + 2 * plane, lanes, inverse) : none;
  const __m512i d = channels > 3 ? code(x + 3 * plane, lanes, inverse) : none;
  // Within 128 bits: four pixels of a, of b, of c, of d; then the bytes of each pixel together.
  const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  const __m512i by_pixel = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return _mm512_shuffle_epi8(bytes, by_pixel);
}

// Write 16 channels of up to 16 pixels, given as four channels each of all pixels.
inline void write_16(__m512i a, __m512i b, __m512i c, __m512i d, int8_t* q, int64_t stride,
                     int64_t pixels) {
  const __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
  const __m512i ef = _mm512_unpackhi_epi32(a, b), gh = _mm512_unpackhi_epi32(c, d);
  // of[j] holds pixels j, j + 4, j + 8 and j + 12.
  const __m512i of[4] = {_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd),
                         _mm512_unpacklo_epi64(ef, gh), _mm512_unpackhi_epi64(ef, gh)};
  for (int j = 0; j < 4 && j < pixels; j++) {
    __m128i* to = (__m128i*)(q + j * stride);
    _mm_storeu_si128(to, _mm512_castsi512_si128(of[j]));
    if (j + 4 < pixels)
      _mm_storeu_si128((__m128i*)(q + (j + 4) * stride), _mm512_extracti32x4_epi32(of[j], 1));
    if (j + 8 < pixels)
      _mm_storeu_si128((__m128i*)(q + (j + 8) * stride), _mm512_extracti32x4_epi32(of[j], 2));
    if (j + 12 < pixels)
      _mm_storeu_si128((__m128i*)(q + (j + 12) * stride), _mm512_extracti32x4_epi32(of[j], 3));
  }
}

}  // namespace

void quantize_pixels_avx512(const Conv* c, const float* x, const Pixels* p, int64_t first,
                            int64_t last) {
  const int64_t depth = conv_depth(c), plane = conv_pixels(c), shared = c->act_group_size;
  const int64_t size = c->weight->group_size < depth ? c->weight->group_size : depth;
  const __m512i ones = _mm512_set1_epi8(1);
  for (int64_t i = first; i < last; i += 16) {
    const int64_t pixels = last - i < 16 ? last - i : 16;
    const __mmask16 lanes = (__mmask16)((1u << pixels) - 1);
    Scaling now = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int32_t part = 0; part < p->parts; part++) {
      const int64_t begin = part * size;
      const float* from = x + begin * plane + i;
      if (begin % shared == 0) now = scaling_of(reach_bits(from, shared, plane, lanes));
      __m512i sum = _mm512_setzero_si512();
      for (int64_t channel = 0; channel < size; channel += 16, from += 16 * plane) {
        __m512i of[4];
        BITFOLD_UNROLL
        for (int j = 0; j < 4; j++) {
          of[j] = codes_4(from + 4 * j * plane, size - channel - 4 * j, plane, lanes, now.inverse);
          sum = _mm512_dpbusd_epi32(sum, ones, of[j]);
        }
        write_16(of[0], of[1], of[2], of[3], p->q + i * p->stride + begin + channel, p->stride,
                 pixels);
      }
      const int64_t at = part * (p->count + 1) + i;
      _mm512_mask_storeu_ps(p->scale + at, lanes, now.scale);
      _mm512_mask_storeu_epi32(p->start + at, lanes,
                               _mm512_mullo_epi32(sum, _mm512_set1_epi32(-p->offset)));
      _mm512_mask_storeu_ps(p->sum + at, lanes, _mm512_cvtepi32_ps(sum));
    }
  }
}

}  // namespace bitfold
