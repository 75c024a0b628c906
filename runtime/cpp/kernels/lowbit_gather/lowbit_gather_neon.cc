// LowBitGather on NEON.

#include <arm_neon.h>

#include "gather_simd.h"

namespace bitfold {
namespace {

// Piece I of the codes of four steps from FIRST on, a dword each: of the lane's words, one of each
// line.
template <int BITS, int I, int FIRST>
inline uint32x4_t lane_piece(const uint32_t* words) {
  uint32_t line[4], mask[4];
  int32_t at[4], low[4];
  for (int s = 0; s < 4; s++) {
    const Piece p = piece_of(BITS, FIRST + s, I);
    line[s] = words[p.line], at[s] = -p.at, low[s] = p.low;
    mask[s] = ((1u << p.width) - 1) * 0x01010101u;
  }
  const uint32x4_t fields = vshlq_u32(vld1q_u32(line), vld1q_s32(at));
  return vshlq_u32(vandq_u32(fields, vld1q_u32(mask)), vld1q_s32(low));
}

template <int BITS, int FIRST>
inline uint8x16_t lane_codes(const uint32_t* words) {
  uint32x4_t c = vdupq_n_u32(0);
  if constexpr (BITS & 12) c = lane_piece<BITS, 0, FIRST>(words);
  if constexpr (BITS & 3) c = vorrq_u32(c, lane_piece<BITS, 1, FIRST>(words));
  if constexpr ((BITS & 3) == 3) c = vorrq_u32(c, lane_piece<BITS, 2, FIRST>(words));
  return vreinterpretq_u8_u32(c);
}

struct V {
  typedef float32x4_t Vector;
  static constexpr int kLanes = 4;
  static Vector set(float value) { return vdupq_n_f32(value); }
  static Vector sub(Vector a, Vector b) { return vsubq_f32(a, b); }
  static Vector mul(Vector a, Vector b) { return vmulq_f32(a, b); }
  static void store(float* to, Vector v) { vst1q_f32(to, v); }
  static void store_part(float* to, Vector v, int64_t count) {
    float each[kLanes];
    vst1q_f32(each, v);
    memcpy(to, each, count * sizeof(float));
  }
  static Vector floats_of(const uint8_t* codes) {
    const uint32x4_t each = {codes[0], codes[1], codes[2], codes[3]};
    return vcvtq_f32_u32(each);
  }
  static Vector look_up(const float* table, const uint8_t* codes) {
    return Vector{table[codes[0]], table[codes[1]], table[codes[2]], table[codes[3]]};
  }
  static Vector look_up(const uint8_t* table, const uint8_t* codes) {
    const uint8_t found[] = {table[codes[0]], table[codes[1]], table[codes[2]], table[codes[3]]};
    return floats_of(found);
  }
  template <int BITS>
  static void codes(const uint8_t* lane, uint8_t* codes) {
    uint32_t words[8] = {};
    for (int i = 0; i < BITS; i++) memcpy(words + i, lane + i * kLine, sizeof *words);
    vst1q_u8(codes, lane_codes<BITS, 0>(words));
    vst1q_u8(codes + 16, lane_codes<BITS, 4>(words));
  }
};

}  // namespace

void gather_row_neon(const PackedWeight* w, int64_t row, float* out) {
  gather_row_with<V>(w, row, out);
}

}  // namespace bitfold
