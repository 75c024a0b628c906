// What the AVX-512 files share: decoding packed lines, scales, and writing outputs.
//
// Internal linkage throughout: only translation units built for AVX-512 include this.
#pragma once

#include <immintrin.h>

#include "gelu.h"
#include "masked.h"
#include "operands_avx512.h"

namespace bitfold {

// Zero points of one tile that are to be subtracted from its operand bytes, group by group.
struct Shift {
  const int8_t* zero_points;  // [G][16], or null
  int add;                    // what is added to every byte besides
};

// Decodes chunks of a tile: see `decode`.
typedef void (*Decode)(const PackedWeight* w, const uint8_t* chunk, int32_t first, int32_t last,
                       const Shift* shift, uint8_t* out);

namespace {

// vpdpbusd in place.  Given the intrinsic, GCC moves every sum to another register and back in
// each round of a loop, runs out of registers and spills.
inline __attribute__((always_inline)) void add_products(__m512i& sum, __m512i u, __m512i a) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(a));
}

// Keep the loads of a step behind this line: moved up, they would push sums out to memory.
inline __attribute__((always_inline)) void fence() { asm volatile("" ::: "memory"); }

// Scales [16] at index `at` (in units of 16).
inline __m512 scales_at(const PackedWeight* w, int64_t at) {
  if (w->scale_type == kScaleF16)
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)w->scales + at));
  switch (w->scale_type) {
    case kScaleBf16: {
      const __m256i bits = _mm256_loadu_si256((const __m256i*)w->scales + at);
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    case kScaleE8m0: {  // an exponent field; 0 stands for 2**-127, which is below the normal ones
      const __m512i bits = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)w->scales + at));
      return _mm512_castsi512_ps(
          _mm512_max_epi32(_mm512_slli_epi32(bits, 23), _mm512_set1_epi32(1 << 22)));
    }
    case kScaleE4m3: {  // sign, exponent and mantissa in their places in a half
      __m256i bits = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)w->scales + at));
      bits = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(bits, 8), 1),
                              _mm256_set1_epi16((short)0xBF80));
      return _mm512_mul_ps(_mm512_cvtph_ps(bits), _mm512_set1_ps(w->e4m3_unit));
    }
    default:
      return _mm512_loadu_ps((const float*)w->scales + at * kTile);
  }
}

inline __m512 zeros_at(const int8_t* zero_points, int64_t at) {
  __m128i z = _mm_loadu_si128((const __m128i*)(zero_points + at * kTile));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(z));
}

// exp(x): Cody and Waite's reduction and the Taylor polynomial of degree 7 on |r| <= ln(2)/2,
// whose remainder is 5e-9; NaN stays NaN.
inline __m512 exp_ps(__m512 x) {
  x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x));
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
  __m512 p = _mm512_set1_ps(1.0f / 5040);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

inline __m512 silu_ps(__m512 x) {
  __m512 e = exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), x));
  return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

// x Phi(x) = max(x, 0) - a Q(a) with a = |x| and the upper tail Q(a) = exp(-a^2/2) t P(t),
// t = 1 / (1 + 0.3 a).  P is the minimax fit of degree 7 of erfcx's relative error on [0, 14],
// 1.3e-7: the tail keeps its digits where 1 + erf(x) has none left.
inline __m512 gelu_ps(__m512 x) {
  const __m512 a = _mm512_min_ps(_mm512_set1_ps(16.0f), _mm512_abs_ps(x));
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(a, _mm512_set1_ps(0.3f), one));
  const __m512 e = exp_ps(_mm512_mul_ps(_mm512_mul_ps(a, a), _mm512_set1_ps(-0.5f)));
  __m512 p = _mm512_set1_ps(kGeluTail[7]);
  BITFOLD_UNROLL
  for (int i = 6; i >= 0; i--) p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kGeluTail[i]));
  const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(e, t), p);
  return _mm512_fnmadd_ps(a, tail, _mm512_max_ps(x, _mm512_setzero_ps()));
}

// x / (1 + exp(-2u)), u the argument of tanh.
inline __m512 gelu_tanh_ps(__m512 x) {
  const __m512 slope = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(kGeluCubic),
                                       _mm512_set1_ps(kGeluLinear));
  const __m512 e = exp_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), slope));
  return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

inline __mmask16 lanes_of(int64_t first, int64_t columns) {
  int64_t left = columns - first;
  return (__mmask16)(left >= kTile ? 0xFFFF : (1u << left) - 1);
}

// Write one tile's sums [rows][16] of a block, or a gate and an up tile's, into Y.
template <int ACTIVATION>
void write_as(const MatMul* op, const Block* b, int32_t tile, const float* sums,
              const float* up_sums) {
  constexpr bool kPaired = ACTIVATION == kSwiGlu;
  const int64_t n = (int64_t)(kPaired ? tile / 2 : tile) * kTile;
  const __mmask16 lanes = lanes_of(n, op->columns);
  const Part* part = part_of(op, n);
  float* y = part->y + b->first * part->columns + n - part->first;
  const float* residual = op->residual ? op->residual + b->first * op->columns + n : nullptr;
  __m512 bias = _mm512_setzero_ps(), up_bias = bias;
  if (op->bias) {
    bias = _mm512_maskz_loadu_ps(lanes, op->bias + n);
    if (kPaired) up_bias = _mm512_maskz_loadu_ps(lanes, op->bias + op->columns + n);
  }
  for (int32_t r = 0; r < b->rows; r++) {
    __m512 v = _mm512_add_ps(_mm512_loadu_ps(sums + r * kTile), bias);
    if (kPaired)
      v = _mm512_mul_ps(silu_ps(v),
                        _mm512_add_ps(_mm512_loadu_ps(up_sums + r * kTile), up_bias));
    if (ACTIVATION == kRelu) v = _mm512_max_ps(_mm512_setzero_ps(), v);  // a NaN stays
    if (ACTIVATION == kGelu) v = gelu_ps(v);
    if (ACTIVATION == kGeluTanh) v = gelu_tanh_ps(v);
    if (residual) {
      v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(lanes, residual));
      residual += op->columns;
    }
    _mm512_mask_storeu_ps(y, lanes, v);
    y += part->columns;
  }
}

inline void write(const MatMul* op, const Block* block, int32_t tile, float* sums,
                  float* up_sums) {
  const Block of_x = whole_rows(op, block, sums, up_sums), *const b = &of_x;
  if (op->low_rank.rank) {
    float* const both[] = {sums, up_sums};
    add_low_rank_avx512(&op->low_rank, b->first, b->rows, tile, is_paired(op) ? 2 : 1, both);
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

// Each lane's lowest byte, four times.
inline __m512i each_byte(__m512i lanes) {
  return _mm512_shuffle_epi8(
      lanes, _mm512_broadcast_i32x4(
                 _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12)));
}

// What is added to the four bytes of each lane: add - zero point.
inline __m512i shift_bytes(const Shift* shift, int32_t group) {
  const __m512i add = _mm512_set1_epi32(shift->add);
  if (!shift->zero_points) return each_byte(add);
  __m512i z = _mm512_cvtepi8_epi32(
      _mm_loadu_si128((const __m128i*)(shift->zero_points + (int64_t)group * kTile)));
  return each_byte(_mm512_sub_epi32(add, z));
}

template <int BITS, bool TABLE, int S>
BITFOLD_INLINE void decode_step(const Lines<BITS>& lines, const Operands<BITS, TABLE>& operands,
                                __m512i shift, uint8_t* out) {
  _mm512_store_si512(out + S * kLine, _mm512_add_epi8(operands.template at<S>(lines), shift));
}

template <int BITS, bool TABLE, int HALF>
BITFOLD_INLINE void decode_half(const uint8_t* chunk, const Operands<BITS, TABLE>& operands,
                                __m512i shift, uint8_t* out) {
  const Lines<BITS> lines = lines_at<BITS>(chunk);
  decode_step<BITS, TABLE, 4 * HALF>(lines, operands, shift, out);
  decode_step<BITS, TABLE, 4 * HALF + 1>(lines, operands, shift, out);
  decode_step<BITS, TABLE, 4 * HALF + 2>(lines, operands, shift, out);
  decode_step<BITS, TABLE, 4 * HALF + 3>(lines, operands, shift, out);
}

// Decode the chunks [first, last) of one tile, which begin at `chunk`, into operand bytes in the
// layout of 8-bit codes: [chunk][8][64].  A group begins at the first of them.
template <int BITS, bool TABLE>
void decode(const PackedWeight* w, const uint8_t* chunk, int32_t first, int32_t last,
            const Shift* shift, uint8_t* out) {
  const int64_t group_halves = (w->group_size + 15) / 16;
  int64_t left = group_halves;  // 16-channel halves until the next group
  int32_t group = (int32_t)(2 * first / group_halves);
  __m512i now = shift_bytes(shift, group);
  const Operands<BITS, TABLE> operands(w->operand);
  for (int32_t c = first; c < last; c++, chunk += BITS * kLine, out += 8 * kLine) {
    decode_half<BITS, TABLE, 0>(chunk, operands, now, out);
    if (--left == 0 && group + 1 < w->groups) now = shift_bytes(shift, ++group), left = group_halves;
    decode_half<BITS, TABLE, 1>(chunk, operands, now, out);
    if (--left == 0 && group + 1 < w->groups) now = shift_bytes(shift, ++group), left = group_halves;
  }
}

inline Decode decoder(const PackedWeight* w) {
  static const Decode plain[] = {decode<1, false>, decode<2, false>, decode<3, false>,
                                 decode<4, false>, decode<5, false>, decode<6, false>,
                                 decode<7, false>, decode<8, false>};
  static const Decode table[] = {decode<1, true>, decode<2, true>, decode<3, true>,
                                 decode<4, true>, decode<5, true>, decode<6, true>,
                                 decode<7, true>, decode<8, true>};
  return (w->has_table ? table : plain)[w->bits - 1];
}

// Whether the packed bytes already are operand bytes.
inline bool is_decoded(const PackedWeight* w) {
  return w->bits == 8 && !w->has_table && !w->masks;
}

// Decode the chunks [first, last) of a tile, which begin at `from`, dense or masked: `lines` has
// room for them.  Returns where the chunks behind them begin.
inline const uint8_t* decode_chunks(const MatMul* op, Decode decode, int32_t tile, int32_t first,
                                    int32_t last, const uint8_t* from, const Shift* shift,
                                    uint8_t* lines, uint8_t* out) {
  const PackedWeight* w = op->weight;
  if (!w->masks) {
    decode(w, from, first, last, shift, out);
    return from + (int64_t)(last - first) * w->bits * kLine;
  }
  from = put_lines(w, masks_of(w, tile, first), last - first, from, lines);
  decode(w, lines, first, last, shift, out);
  spread_operands(op->masked, w, tile, first, last, zero_bytes(w, w->offset), out);
  return from;
}

// Where a tile's codes begin.
inline const uint8_t* tile_at(const PackedWeight* w, int32_t tile) {
  return w->masks ? first_line(w, tile) : dense_tile(w, tile);
}

// Whether every level of a tile less its zero point fits in eight bits.
inline bool tile_folds(const PackedWeight* w, const int8_t* zero_points) {
  __m128i low = _mm_set1_epi8(127), high = _mm_set1_epi8(-128);
  for (int32_t g = 0; g < w->groups; g++) {
    const __m128i z = _mm_loadu_si128((const __m128i*)(zero_points + (int64_t)g * kTile));
    low = _mm_min_epi8(low, z);
    high = _mm_max_epi8(high, z);
  }
  const int32_t least = _mm512_reduce_min_epi32(_mm512_cvtepi8_epi32(low));
  const int32_t most = _mm512_reduce_max_epi32(_mm512_cvtepi8_epi32(high));
  return w->least - most >= -128 && w->most - least <= 127;
}

}  // namespace
}  // namespace bitfold
