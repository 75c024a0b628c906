// What the NEON files share: decoding a tile, scales, and writing outputs.  A tile's 16 lanes
// are four quarters of 4, a register each.
//
// sdot multiplies signed bytes.  Codes of up to 7 bits are such bytes as they are, their offset
// removed by MatMul's `start`; codes of 8 bits and looked-up values become levels, offset 0.
//
// Internal linkage throughout: only translation units built for NEON include this.
#pragma once

#include <arm_neon.h>
#include <string.h>

#include "gelu.h"
#include "masked.h"

namespace bitfold {

void quantize_neon(const MatMul* op, int32_t block, const float* x);
void interleave_neon(const MatMul* op, int32_t block, const float* x);
// Float levels.
void multiply_values_neon(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                          int32_t block1, uint8_t* scratch);

namespace {

#define BITFOLD_INLINE inline __attribute__((always_inline))

// The offset of the bytes that `operands` makes.
inline int32_t signed_offset(const PackedWeight* w) {
  return w->has_table || w->bits == 8 ? 0 : w->offset;
}

// The table of a format as levels, 16 of them a register.
template <int BITS, bool TABLE>
struct Levels {
  static constexpr int kParts = !TABLE ? 0 : BITS > 4 ? 1 << (BITS - 4) : 1;
  uint8x16_t part[kParts ? kParts : 1];

  BITFOLD_INLINE explicit Levels(const PackedWeight* w) {
    for (int i = 0; i < kParts; i++)
      part[i] = veorq_u8(vld1q_u8(w->operand + 16 * i), vdupq_n_u8(0x80));
  }

  BITFOLD_INLINE uint8x16_t at(uint8x16_t c) const {
    if constexpr (kParts <= 1) return vqtbl1q_u8(part[0], c);
    if constexpr (kParts == 2) return vqtbl2q_u8({{part[0], part[1]}}, c);
    if constexpr (kParts >= 4) {
      uint8x16_t found = vqtbl4q_u8({{part[0], part[1], part[2], part[3]}}, c);
      for (int i = 4; i < kParts; i += 4) {  // indices out of a look-up's range change nothing
        c = vsubq_u8(c, vdupq_n_u8(64));
        found = vqtbx4q_u8(found, {{part[i], part[i + 1], part[i + 2], part[i + 3]}}, c);
      }
      return found;
    }
  }
};

// Piece I of 16 codes of step S, or'ed to those before; `chunk` points at a quarter of each line.
template <int BITS, int S, int I>
BITFOLD_INLINE uint8x16_t piece(const uint8_t* chunk, uint8x16_t others) {
  constexpr Piece kPiece = piece_of(BITS, S, I);
  constexpr int kShift = kPiece.at - kPiece.low, kTop = kPiece.at + kPiece.width;
  if constexpr (kPiece.width == 0) return others;
  uint8x16_t line = vld1q_u8(chunk + kPiece.line * kLine);
  if constexpr (kPiece.width == 8) return line;
  if constexpr (kShift > 0) line = vshrq_n_u8(line, kShift);
  if constexpr (kShift < 0) line = vshlq_n_u8(line, -kShift);
  if constexpr (kPiece.low > 0 || kTop < 8)
    line = vandq_u8(line, vdupq_n_u8(((1 << kPiece.width) - 1) << kPiece.low));
  return I == 0 || (I == 1 && !(BITS & 12)) ? line : vorrq_u8(line, others);
}

template <int BITS, int S>
BITFOLD_INLINE uint8x16_t codes(const uint8_t* chunk) {
  const uint8x16_t wide = piece<BITS, S, 0>(chunk, vdupq_n_u8(0));
  return piece<BITS, S, 2>(chunk, piece<BITS, S, 1>(chunk, wide));
}

// A format of a panel that is decoded already.
constexpr int kDecoded = 0;
constexpr int lines_of(int bits) { return bits == kDecoded ? 8 : bits; }

// The signed bytes of step S, a quarter of a chunk.
template <int BITS, bool TABLE, int S>
BITFOLD_INLINE int8x16_t operands(const uint8_t* chunk, const Levels<BITS, TABLE>& levels) {
  if constexpr (BITS == kDecoded) return vreinterpretq_s8_u8(vld1q_u8(chunk + S * kLine));
  uint8x16_t c = codes<BITS, S>(chunk);
  if constexpr (TABLE) c = levels.at(c);
  if constexpr (BITS == 8 && !TABLE) c = veorq_u8(c, vdupq_n_u8(0x80));
  return vreinterpretq_s8_u8(c);
}

template <int BITS, bool TABLE, int S>
BITFOLD_INLINE void decode_from(const uint8_t* chunk, const Levels<BITS, TABLE>& levels,
                                int8_t* out) {
  for (int lane = 0; lane < kLine; lane += 16)
    vst1q_s8(out + S * kLine + lane, operands<BITS, TABLE, S>(chunk + lane, levels));
  if constexpr (S < 7) decode_from<BITS, TABLE, S + 1>(chunk, levels, out);
}

// Decode one tile, which begins at `chunk`, into signed bytes in the layout of 8-bit codes:
// [C][8][64].
template <int BITS, bool TABLE>
void decode(const PackedWeight* w, const uint8_t* chunk, uint8_t* out) {
  const Levels<BITS, TABLE> levels(w);
  for (int32_t c = 0; c < w->chunks; c++, chunk += BITS * kLine, out += 8 * kLine)
    decode_from<BITS, TABLE, 0>(chunk, levels, (int8_t*)out);
}

typedef void (*Decode)(const PackedWeight* w, const uint8_t* chunk, uint8_t* out);

inline Decode decoder(const PackedWeight* w) {
  static const Decode plain[] = {decode<1, false>, decode<2, false>, decode<3, false>,
                                 decode<4, false>, decode<5, false>, decode<6, false>,
                                 decode<7, false>, decode<8, false>};
  static const Decode table[] = {decode<1, true>, decode<2, true>, decode<3, true>,
                                 decode<4, true>, decode<5, true>, decode<6, true>,
                                 decode<7, true>, decode<8, true>};
  return (w->has_table ? table : plain)[w->bits - 1];
}

// Where a tile's dense chunks are; those of a masked one are put behind `lines`.
inline const uint8_t* dense_chunks(const PackedWeight* w, int32_t tile, uint8_t* lines) {
  if (!w->masks) return dense_tile(w, tile);
  put_lines(w, masks_of(w, tile, 0), w->chunks, first_line(w, tile), lines);
  return lines;
}

// Four bytes at index `at` (in units of 4).
BITFOLD_INLINE uint16x4_t bytes_at(const void* from, int64_t at) {
  uint32_t four;
  memcpy(&four, (const uint8_t*)from + at * 4, sizeof four);
  return vget_low_u16(vmovl_u8(vcreate_u8(four)));
}

// Scales of 4 lanes at index `at` (in units of 4).
BITFOLD_INLINE float32x4_t scales_at(const PackedWeight* w, int64_t at) {
  switch (w->scale_type) {  // as in avx512.h
    case kScaleF16:
      return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)w->scales + at * 4)));
    case kScaleBf16:
      return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t*)w->scales + at * 4), 16));
    case kScaleE8m0: {
      const uint32x4_t bits = vshlq_n_u32(vmovl_u16(bytes_at(w->scales, at)), 23);
      return vreinterpretq_f32_u32(vmaxq_u32(bits, vdupq_n_u32(1 << 22)));
    }
    case kScaleE4m3: {
      const int16x4_t codes = vreinterpret_s16_u16(vshl_n_u16(bytes_at(w->scales, at), 8));
      const int16x4_t bits = vand_s16(vshr_n_s16(codes, 1), vdup_n_s16((int16_t)0xBF80));
      return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_s16(bits)), w->e4m3_unit);
    }
    default:
      return vld1q_f32((const float*)w->scales + at * 4);
  }
}

BITFOLD_INLINE float32x4_t zeros_at(const PackedWeight* w, int64_t at) {
  const int32x4_t z = {w->zero_points[at * 4], w->zero_points[at * 4 + 1],
                       w->zero_points[at * 4 + 2], w->zero_points[at * 4 + 3]};
  return vcvtq_f32_s32(z);
}

// The first `count` of 4 floats, others zero; nothing behind them is touched.
BITFOLD_INLINE float32x4_t load_part(const float* from, int64_t count) {
  if (count >= 4) return vld1q_f32(from);
  float v[4] = {0, 0, 0, 0};
  for (int64_t i = 0; i < count; i++) v[i] = from[i];
  return vld1q_f32(v);
}

BITFOLD_INLINE void store_part(float* to, float32x4_t v, int64_t count) {
  if (count >= 4) return vst1q_f32(to, v);
  float out[4];
  vst1q_f32(out, v);
  for (int64_t i = 0; i < count; i++) to[i] = out[i];
}

// As in avx2.h.
inline float32x4_t exp_ps(float32x4_t x) {
  x = vminq_f32(vdupq_n_f32(89.0f), vmaxq_f32(vdupq_n_f32(-104.0f), x));
  const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 0x1.715476p+0f));
  float32x4_t r = vfmsq_n_f32(x, n, 0x1.62e4p-1f);
  r = vfmsq_n_f32(r, n, 0x1.7f7d1cp-20f);
  float32x4_t p = vdupq_n_f32(1.0f / 5040);
  p = vfmaq_f32(vdupq_n_f32(1.0f / 720), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.0f / 120), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.0f / 24), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.0f / 6), p, r);
  p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
  const int32x4_t whole = vcvtnq_s32_f32(n), low = vshrq_n_s32(whole, 1);
  const int32x4_t bias = vdupq_n_s32(127);
  const int32x4_t a = vshlq_n_s32(vaddq_s32(low, bias), 23);
  const int32x4_t b = vshlq_n_s32(vaddq_s32(vsubq_s32(whole, low), bias), 23);
  return vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b));
}

inline float32x4_t silu_ps(float32x4_t x) {
  return vdivq_f32(x, vaddq_f32(exp_ps(vnegq_f32(x)), vdupq_n_f32(1.0f)));
}

// As in avx512.h.
inline float32x4_t gelu_ps(float32x4_t x) {
  const float32x4_t a = vminq_f32(vdupq_n_f32(16.0f), vabsq_f32(x)), one = vdupq_n_f32(1.0f);
  const float32x4_t t = vdivq_f32(one, vfmaq_n_f32(one, a, 0.3f));
  const float32x4_t e = exp_ps(vmulq_n_f32(vmulq_f32(a, a), -0.5f));
  float32x4_t p = vdupq_n_f32(kGeluTail[7]);
  for (int i = 6; i >= 0; i--) p = vfmaq_f32(vdupq_n_f32(kGeluTail[i]), p, t);
  const float32x4_t tail = vmulq_f32(vmulq_f32(e, t), p);
  return vfmsq_f32(vmaxq_f32(x, vdupq_n_f32(0)), a, tail);
}

inline float32x4_t gelu_tanh_ps(float32x4_t x) {
  const float32x4_t slope = vfmaq_n_f32(vdupq_n_f32(kGeluLinear), vmulq_f32(x, x), kGeluCubic);
  const float32x4_t e = exp_ps(vmulq_f32(vnegq_f32(x), slope));
  return vdivq_f32(x, vaddq_f32(e, vdupq_n_f32(1.0f)));
}

template <int ACTIVATION>
BITFOLD_INLINE float32x4_t activated(float32x4_t v) {
  if (ACTIVATION == kSwiGlu) return silu_ps(v);
  if (ACTIVATION == kRelu) return vmaxq_f32(v, vdupq_n_f32(0));  // a NaN stays
  if (ACTIVATION == kGelu) return gelu_ps(v);
  if (ACTIVATION == kGeluTanh) return gelu_tanh_ps(v);
  return v;
}

// Write one tile's sums [rows][16] of a block, or a gate and an up tile's, into Y.
template <int ACTIVATION>
void write_as(const MatMul* op, const Block* b, int32_t tile, const float* sums,
              const float* up_sums) {
  constexpr bool kPaired = ACTIVATION == kSwiGlu;
  for (int quarter = 0; quarter < 4; quarter++) {
    const int64_t n = (int64_t)(kPaired ? tile / 2 : tile) * kTile + 4 * quarter;
    const int64_t count = op->columns - n;
    if (count <= 0) return;
    const Part* part = part_of(op, n);
    float* y = part->y + b->first * part->columns + n - part->first;
    const float* residual = op->residual ? op->residual + b->first * op->columns + n : nullptr;
    float32x4_t bias = vdupq_n_f32(0), up_bias = bias;
    if (op->bias) {
      bias = load_part(op->bias + n, count);
      if (kPaired) up_bias = load_part(op->bias + op->columns + n, count);
    }
    for (int32_t r = 0; r < b->rows; r++) {
      const int64_t at = r * kTile + 4 * quarter;
      float32x4_t v = activated<ACTIVATION>(vaddq_f32(vld1q_f32(sums + at), bias));
      if (kPaired) v = vmulq_f32(v, vaddq_f32(vld1q_f32(up_sums + at), up_bias));
      if (residual) {
        v = vaddq_f32(v, load_part(residual, count));
        residual += op->columns;
      }
      store_part(y, v, count);
      y += part->columns;
    }
  }
}

inline void write(const MatMul* op, const Block* b, int32_t tile, float* sums,
                  float* up_sums) {
  if (op->low_rank.rank) {
    float* const both[] = {sums, up_sums};
    add_low_rank_neon(&op->low_rank, b->first, b->rows, tile, is_paired(op) ? 2 : 1, both);
  }
  switch (op->activation) {
    case kIdentity:
      return write_as<kIdentity>(op, b, tile, sums, up_sums);
    case kSwiGlu:
      return write_as<kSwiGlu>(op, b, tile, sums, up_sums);
    case kRelu:
      return write_as<kRelu>(op, b, tile, sums, up_sums);
    case kGelu:
      return write_as<kGelu>(op, b, tile, sums, up_sums);
    case kGeluTanh:
      return write_as<kGeluTanh>(op, b, tile, sums, up_sums);
  }
}

}  // namespace
}  // namespace bitfold
