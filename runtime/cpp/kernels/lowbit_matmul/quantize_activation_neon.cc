// Prepare blocks of X on NEON; see quantize_activation_avx512vnni.cc.

#include <math.h>
#include <string.h>

#include "broken_row.h"
#include "neon.h"

namespace bitfold {
namespace {

constexpr float kTiny = 1e-30f;
constexpr uint32_t kInfinity = 0x7f800000;

inline float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Bits of the largest |x|; infinity's bits or more when a value is not finite.
inline uint32_t reach_bits(const float* x, int64_t count) {
  uint32x4_t most = vdupq_n_u32(0);
  for (int64_t i = 0; i < count; i += 4)
    most = vmaxq_u32(most, vreinterpretq_u32_f32(vabsq_f32(load_part(x + i, count - i))));
  return vmaxvq_u32(most);
}

// Integers within reach of an int8; only a given scale lets values go beyond.
inline int32x4_t rounded(float32x4_t x, float inverse) {
  const float32x4_t scaled = vmaxq_f32(vmulq_n_f32(x, inverse), vdupq_n_f32(-127));
  return vcvtnq_s32_f32(vminq_f32(scaled, vdupq_n_f32(127)));
}

// Round up to 8 inputs, write them as two interleaved int32, return their sums by four.
inline int32x4_t round_8(const float* x, int64_t count, float inverse, int32_t* q, int32_t rows) {
  const int32x4_t low = rounded(load_part(x, count), inverse);
  const int32x4_t high = rounded(load_part(x + 4, count - 4), inverse);
  const int8x8_t bytes = vqmovn_s16(vcombine_s16(vqmovn_s32(low), vqmovn_s32(high)));
  const int32x2_t steps = vreinterpret_s32_s8(bytes);
  q[0] = vget_lane_s32(steps, 0);
  q[rows] = vget_lane_s32(steps, 1);
  return vaddq_s32(low, high);
}

}  // namespace

void quantize_neon(const MatMul* op, int32_t index, const float* rows_x) {
  const PackedWeight* w = op->weight;
  Block block = block_at(op, index);
  const int32_t rows = block.rows;
  const bool whole = op->act_group_size >= w->k;
  const float top = act_top(op), given = op->act_scale;
  for (int32_t r = 0; r < rows; r++) {
    const float* x = rows_x + r * w->k;
    int32_t* q = block.q + r;
    const uint32_t row_reach = whole ? reach_bits(x, w->k) : 0;
    bool broken = row_reach >= kInfinity;
    for (int32_t g = 0; g < w->groups && !broken; g++) {
      const int64_t k0 = (int64_t)g * w->group_size;
      const int64_t count = w->group_size < w->k - k0 ? w->group_size : w->k - k0;
      const uint32_t bits = whole ? row_reach : reach_bits(x + k0, count);
      broken |= bits >= kInfinity;
      const float amax = as_float(bits);
      const float inverse = given > 0 ? 1 / given : amax < kTiny ? 0 : top / amax;
      int32x4_t sums = vdupq_n_s32(0);
      for (int64_t i = 0; i < count; i += 8)
        sums = vaddq_s32(
            sums, round_8(x + k0 + i, count - i, inverse, q + (k0 + i) / 4 * rows, rows));
      const int32_t sum = vaddvq_s32(sums);
      block.scale[g * rows + r] = given > 0 ? given : amax < kTiny ? 0 : amax / top;
      block.start[g * rows + r] = -op->offset * sum;
      block.sum[g * rows + r] = (float)sum;
    }
    for (int64_t i = round_up(w->k, 8) / 4; i < padded_k(w) / 4; i++) q[i * rows] = 0;
    if (broken) poison(w, &block, r);
  }
}

void interleave_neon(const MatMul* op, int32_t index, const float* rows_x) {
  const PackedWeight* w = op->weight;
  Block block = block_at(op, index);
  const int32_t rows = block.rows;
  for (int32_t r = 0; r < rows; r++) {
    const float* x = rows_x + r * w->k;
    const bool broken = reach_bits(x, w->k) >= kInfinity;
    block.scale[r] = broken ? NAN : 1.0f;
    for (int64_t k = 0; k < w->k; k++) block.x[k * rows + r] = broken ? 0 : x[k];
    for (int64_t k = w->k; k < padded_k(w); k++) block.x[k * rows + r] = 0;
    for (int32_t g = 0; g < w->groups; g++) {
      const int64_t k0 = (int64_t)g * w->group_size;
      const int64_t k1 = k0 + w->group_size < w->k ? k0 + w->group_size : w->k;
      float sum = 0;
      for (int64_t k = k0; k < k1; k++) sum += x[k];
      block.sum[g * rows + r] = broken ? 0 : sum;
    }
  }
}

}  // namespace bitfold
