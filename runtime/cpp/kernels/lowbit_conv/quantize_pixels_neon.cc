// Quantize pixels on NEON, 4 of them side by side; see quantize_pixels_avx512vnni.cc.

#include <math.h>

#include "conv_neon.h"

namespace bitfold {
namespace {

constexpr float kTiny = 1e-30f;
constexpr uint32_t kInfinity = 0x7f800000;

// Bits of the largest |x| of each pixel; infinity's bits or more where a value is not finite.
inline uint32x4_t reach_bits(const float* x, int64_t channels, int64_t plane, int64_t pixels) {
  uint32x4_t most = vdupq_n_u32(0);
  for (int64_t i = 0; i < channels; i++)
    most = vmaxq_u32(most, vreinterpretq_u32_f32(vabsq_f32(load_part(x + i * plane, pixels))));
  return most;
}

// What one scale does to 4 pixels.
struct Scaling {
  float32x4_t inverse, scale;
};

BITFOLD_INLINE float32x4_t kept(uint32x4_t mask, float32x4_t v) {
  return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(v)));
}

inline Scaling scaling_of(uint32x4_t reach) {
  const float32x4_t top = vdupq_n_f32(127), amax = vreinterpretq_f32_u32(reach);
  const uint32x4_t broken = vcgeq_u32(reach, vdupq_n_u32(kInfinity));
  const uint32x4_t alive = vbicq_u32(vcgeq_f32(amax, vdupq_n_f32(kTiny)), broken);
  return {kept(alive, vdivq_f32(top, amax)),
          vbslq_f32(broken, vdupq_n_f32(NAN), kept(alive, vdivq_f32(amax, top)))};
}

// The code of one channel in the low byte of each lane, other bits zero; NaN becomes zero.
BITFOLD_INLINE uint32x4_t code(const float* x, int64_t pixels, float32x4_t inverse) {
  const int32x4_t rounded = vcvtnq_s32_f32(vmulq_f32(load_part(x, pixels), inverse));
  return vandq_u32(vreinterpretq_u32_s32(rounded), vdupq_n_u32(255));
}

// The codes of up to four channels, a byte each.
BITFOLD_INLINE int8x16_t codes_4(const float* x, int64_t channels, int64_t plane, int64_t pixels,
                                 float32x4_t inverse) {
  uint32x4_t all = vdupq_n_u32(0);
  if (channels > 0) all = code(x, pixels, inverse);
  if (channels > 1) all = vsliq_n_u32(all, code(x + plane, pixels, inverse), 8);
  if (channels > 2) all = vsliq_n_u32(all, code(x + 2 * plane, pixels, inverse), 16);
  if (channels > 3) all = vsliq_n_u32(all, code(x + 3 * plane, pixels, inverse), 24);
  return vreinterpretq_s8_u32(all);
}

// Write 16 channels of up to 4 pixels, given as four channels each of all pixels.
BITFOLD_INLINE void write_16(const int8x16_t* of, int8_t* q, int64_t stride, int64_t pixels) {
  float32x4_t v[4];
  for (int j = 0; j < 4; j++) v[j] = vreinterpretq_f32_s8(of[j]);
  transpose(v);
  for (int j = 0; j < 4 && j < pixels; j++)
    vst1q_s8(q + j * stride, vreinterpretq_s8_f32(v[j]));
}

}  // namespace

void quantize_pixels_neon(const Conv* c, const float* x, const Pixels* p, int64_t first,
                          int64_t last) {
  const int64_t depth = conv_depth(c), plane = conv_pixels(c), shared = c->act_group_size;
  const int64_t size = c->weight->group_size < depth ? c->weight->group_size : depth;
  const int8x16_t ones = vdupq_n_s8(1);
  for (int64_t i = first; i < last; i += 4) {
    const int64_t pixels = last - i < 4 ? last - i : 4;
    Scaling now = {vdupq_n_f32(0), vdupq_n_f32(0)};
    for (int32_t part = 0; part < p->parts; part++) {
      const int64_t begin = part * size;
      const float* from = x + begin * plane + i;
      if (begin % shared == 0) now = scaling_of(reach_bits(from, shared, plane, pixels));
      int32x4_t sum = vdupq_n_s32(0);
      for (int64_t channel = 0; channel < size; channel += 16, from += 16 * plane) {
        int8x16_t of[4];
        for (int j = 0; j < 4; j++) {
          of[j] = codes_4(from + 4 * j * plane, size - channel - 4 * j, plane, pixels, now.inverse);
          sum = vdotq_s32(sum, of[j], ones);
        }
        write_16(of, p->q + i * p->stride + begin + channel, p->stride, pixels);
      }
      const int64_t at = part * (p->count + 1) + i;
      const int32x4_t start = vmulq_n_s32(sum, -p->offset);
      store_part(p->scale + at, now.scale, pixels);
      store_part((float*)p->start + at, vreinterpretq_f32_s32(start), pixels);
      store_part(p->sum + at, vcvtq_f32_s32(sum), pixels);
    }
  }
}

}  // namespace bitfold
