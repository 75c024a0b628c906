// Depthwise convolution on NEON.

#include "conv_neon.h"
#include "depthwise.h"

namespace bitfold {
namespace {

struct V {
  typedef float32x4_t Vector;
  static constexpr int kLanes = 4;
  static Vector set(float value) { return vdupq_n_f32(value); }
  static Vector load(const float* from) { return vld1q_f32(from); }
  static Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
  // NaN stays.
  static Vector clamp(Vector v, Vector least, Vector most) {
    return vminq_f32(most, vmaxq_f32(least, v));
  }
  typedef uint32_t Mask;  // a bit a lane: lanes beyond the image must not be read
  static Mask mask_of(uint32_t bits) { return bits & 15; }
  static Vector load_masked(const float* from, Mask mask) {
    if (mask == 15) return vld1q_f32(from);
    float v[4] = {0, 0, 0, 0};
    for (int i = 0; i < 4; i++)
      if (mask >> i & 1) v[i] = from[i];
    return vld1q_f32(v);
  }
  static void store(float* to, Vector v) { vst1q_f32(to, v); }
  // Elements x[at] and on, zero where the index is not in [0, count).
  static Vector load_within(const float* x, int64_t at, int64_t count) {
    if (at >= 0 && at + 4 <= count) return vld1q_f32(x + at);
    Mask mask = 0;
    for (int i = 0; i < 4; i++) mask |= (Mask)(at + i >= 0 && at + i < count) << i;
    return mask ? load_masked(x + at, mask) : set(0);
  }
  static void store_part(float* to, Vector v, int64_t count) { bitfold::store_part(to, v, count); }
  // The even and the odd elements of two vectors.
  static Vector even(Vector a, Vector b) { return vuzp1q_f32(a, b); }
  static Vector odd(Vector a, Vector b) { return vuzp2q_f32(a, b); }
};

}  // namespace

void depthwise_neon(const Conv* c, int64_t image, int64_t first, int64_t last, uint8_t* scratch) {
  const PackedWeight* w = c->weight;
  const auto decode_weights = [&](int32_t tile, uint8_t* operands, float* weights) {
    decoder(w)(w, dense_tile(w, tile), operands);
    for (int quarter = 0; quarter < 4; quarter++) {
      const int64_t at = 4 * (int64_t)tile + quarter;
      const float32x4_t scale = scales_at(w, at);
      float32x4_t zero = vdupq_n_f32((float)signed_offset(w));
      if (w->zero_points) zero = vaddq_f32(zero, zeros_at(w, at));
      for (int64_t tap = 0; tap < conv_taps(c); tap++) {
        const int8_t* line = (const int8_t*)operands + tap / 4 * kLine + 16 * quarter;
        const int32x4_t byte = {line[tap % 4], line[tap % 4 + 4], line[tap % 4 + 8],
                                line[tap % 4 + 12]};
        const float32x4_t level = vsubq_f32(vcvtq_f32_s32(byte), zero);
        vst1q_f32(weights + tap * kTile + 4 * quarter, vmulq_f32(level, scale));
      }
    }
  };
  convolve_depthwise<V>(c, image, first, last, scratch, decode_weights);
}

int64_t depthwise_scratch_neon(const Conv* c) { return depthwise_bytes(c, V::kLanes); }

}  // namespace bitfold
