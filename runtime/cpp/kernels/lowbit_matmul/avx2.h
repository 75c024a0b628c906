// What the AVX2 files share: decoding a tile, scales, and writing outputs.  A tile's 16 lanes
// are two halves of 8.
//
// Internal linkage throughout: only translation units built for AVX2 include this.
#pragma once

#include <immintrin.h>

#include "gelu.h"
#include "masked.h"

namespace bitfold {

void quantize_avx2(const MatMul* op, int32_t block, const float* x);
// Floats as fixed point.
void write_fixed_rows_avx2(const MatMul* op, int32_t block, const float* x);
void interleave_avx2(const MatMul* op, int32_t block, const float* x);
// Float levels.
void multiply_values_avx2(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                          int32_t block1, uint8_t* scratch);

namespace {

// Piece I of the codes of step S, or'ed to those before; `chunk` points at a half of each line.
template <int BITS, int S, int I>
inline __m256i piece(const uint8_t* chunk, __m256i others) {
  constexpr Piece kPiece = piece_of(BITS, S, I);
  constexpr int kShift = kPiece.at - kPiece.low;
  if constexpr (kPiece.width == 0) return others;
  __m256i line = _mm256_loadu_si256((const __m256i*)(chunk + kPiece.line * kLine));
  if constexpr (kPiece.width == 8) return line;
  if constexpr (kShift > 0) line = _mm256_srli_epi16(line, kShift);
  if constexpr (kShift < 0) line = _mm256_slli_epi16(line, -kShift);
  constexpr int kMask = ((1 << kPiece.width) - 1) << kPiece.low;
  return _mm256_or_si256(_mm256_and_si256(line, _mm256_set1_epi8((char)kMask)), others);
}

template <int BITS, int S>
inline __m256i codes(const uint8_t* chunk) {
  const __m256i wide = piece<BITS, S, 0>(chunk, _mm256_setzero_si256());
  return piece<BITS, S, 2>(chunk, piece<BITS, S, 1>(chunk, wide));
}

template <int BITS>
inline __m256i look_up(__m256i c, const uint8_t* table) {
  __m256i found = _mm256_setzero_si256();
  for (int high = 0; high < 1 << (BITS > 4 ? BITS - 4 : 0); high++) {
    __m256i part = _mm256_broadcastsi128_si256(
        _mm_loadu_si128((const __m128i*)(table + 16 * high)));
    if (BITS <= 4) return _mm256_shuffle_epi8(part, c);
    __m256i within = _mm256_xor_si256(c, _mm256_set1_epi8((char)(high << 4)));
    within = _mm256_adds_epu8(within, _mm256_set1_epi8(0x70));
    found = _mm256_or_si256(found, _mm256_shuffle_epi8(part, within));
  }
  return found;
}

template <int BITS, bool TABLE, int S>
inline void decode_step(const uint8_t* chunk, const uint8_t* table, uint8_t* out) {
  for (int half = 0; half < 2; half++) {
    __m256i c = codes<BITS, S>(chunk + 32 * half);
    if (TABLE) c = look_up<BITS>(c, table);
    _mm256_store_si256((__m256i*)(out + S * kLine + 32 * half), c);
  }
}

// Decode one tile, which begins at `chunk`, into operand bytes in the layout of 8-bit codes:
// [C][8][64].
template <int BITS, bool TABLE>
void decode(const PackedWeight* w, const uint8_t* chunk, uint8_t* out) {
  for (int32_t c = 0; c < w->chunks; c++, chunk += BITS * kLine, out += 8 * kLine) {
    decode_step<BITS, TABLE, 0>(chunk, w->operand, out);
    decode_step<BITS, TABLE, 1>(chunk, w->operand, out);
    decode_step<BITS, TABLE, 2>(chunk, w->operand, out);
    decode_step<BITS, TABLE, 3>(chunk, w->operand, out);
    decode_step<BITS, TABLE, 4>(chunk, w->operand, out);
    decode_step<BITS, TABLE, 5>(chunk, w->operand, out);
    decode_step<BITS, TABLE, 6>(chunk, w->operand, out);
    decode_step<BITS, TABLE, 7>(chunk, w->operand, out);
  }
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

// The operand bytes of a tile, dense or masked: decoded into `out`, with the lines of a masked one
// behind `lines`, or where they are.
inline const uint8_t* decoded(const MatMul* op, int32_t tile, uint8_t* lines, uint8_t* out) {
  const PackedWeight* w = op->weight;
  const uint8_t* from = w->masks ? lines : dense_tile(w, tile);
  if (w->masks) put_lines(w, masks_of(w, tile, 0), w->chunks, first_line(w, tile), lines);
  if (w->bits == 8 && !w->has_table && !w->masks) return from;
  decoder(w)(w, from, out);
  if (w->masks)
    spread_operands(op->masked, w, tile, 0, w->chunks, zero_bytes(w, w->offset), out);
  return out;
}

// Scales of 8 lanes at index `at` (in units of 8).
inline __m256 scales_at(const PackedWeight* w, int64_t at) {
  switch (w->scale_type) {  // as in avx512.h
    case kScaleF16:
      return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)w->scales + at));
    case kScaleBf16: {
      const __m128i bits = _mm_loadu_si128((const __m128i*)w->scales + at);
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    case kScaleE8m0: {
      const __m128i bits = _mm_loadl_epi64((const __m128i*)((const uint8_t*)w->scales + at * 8));
      return _mm256_castsi256_ps(_mm256_max_epi32(
          _mm256_slli_epi32(_mm256_cvtepu8_epi32(bits), 23), _mm256_set1_epi32(1 << 22)));
    }
    case kScaleE4m3: {
      const __m128i codes = _mm_loadl_epi64((const __m128i*)((const uint8_t*)w->scales + at * 8));
      const __m128i bits =
          _mm_and_si128(_mm_srai_epi16(_mm_slli_epi16(_mm_cvtepu8_epi16(codes), 8), 1),
                        _mm_set1_epi16((short)0xBF80));
      return _mm256_mul_ps(_mm256_cvtph_ps(bits), _mm256_set1_ps(w->e4m3_unit));
    }
    default:
      return _mm256_loadu_ps((const float*)w->scales + at * 8);
  }
}

inline __m256 zeros_at(const PackedWeight* w, int64_t at) {
  __m128i z = _mm_loadl_epi64((const __m128i*)(w->zero_points + at * 8));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(z));
}

// As in avx512.h; 2**n is made in two factors, so that it reaches denormals and infinity.
inline __m256 exp_ps(__m256 x) {
  x = _mm256_min_ps(_mm256_set1_ps(89.0f), _mm256_max_ps(_mm256_set1_ps(-104.0f), x));
  __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
  __m256 p = _mm256_set1_ps(1.0f / 5040);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  const __m256i whole = _mm256_cvtps_epi32(n), low = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  __m256i a = _mm256_slli_epi32(_mm256_add_epi32(low, bias), 23);
  __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, low), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

inline __m256 silu_ps(__m256 x) {
  __m256 e = exp_ps(_mm256_sub_ps(_mm256_setzero_ps(), x));
  return _mm256_div_ps(x, _mm256_add_ps(e, _mm256_set1_ps(1.0f)));
}

// As in avx512.h.
inline __m256 gelu_ps(__m256 x) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  const __m256 a = _mm256_min_ps(_mm256_set1_ps(16.0f), _mm256_and_ps(x, magnitude));
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(a, _mm256_set1_ps(0.3f), one));
  const __m256 e = exp_ps(_mm256_mul_ps(_mm256_mul_ps(a, a), _mm256_set1_ps(-0.5f)));
  __m256 p = _mm256_set1_ps(kGeluTail[7]);
  for (int i = 6; i >= 0; i--) p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(kGeluTail[i]));
  const __m256 tail = _mm256_mul_ps(_mm256_mul_ps(e, t), p);
  return _mm256_fnmadd_ps(a, tail, _mm256_max_ps(x, _mm256_setzero_ps()));
}

inline __m256 gelu_tanh_ps(__m256 x) {
  const __m256 slope = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(kGeluCubic),
                                       _mm256_set1_ps(kGeluLinear));
  const __m256 e = exp_ps(_mm256_mul_ps(_mm256_sub_ps(_mm256_setzero_ps(), x), slope));
  return _mm256_div_ps(x, _mm256_add_ps(e, _mm256_set1_ps(1.0f)));
}

inline __m256i lanes_of(int64_t first, int64_t columns) {
  const int64_t left = columns - first;
  const int32_t lanes = left < 0 ? 0 : left < 8 ? (int32_t)left : 8;
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Write one tile's sums [rows][16] of a block, or a gate and an up tile's, into Y.
template <int ACTIVATION>
void write_as(const MatMul* op, const Block* b, int32_t tile, const float* sums,
              const float* up_sums) {
  constexpr bool kPaired = ACTIVATION == kSwiGlu;
  for (int half = 0; half < 2; half++) {
    const int64_t n = (int64_t)(kPaired ? tile / 2 : tile) * kTile + 8 * half;
    if (n >= op->columns) return;
    const __m256i lanes = lanes_of(n, op->columns);
    const Part* part = part_of(op, n);
    float* y = part->y + b->first * part->columns + n - part->first;
    const float* residual = op->residual ? op->residual + b->first * op->columns + n : nullptr;
    __m256 bias = _mm256_setzero_ps(), up_bias = bias;
    if (op->bias) {
      bias = _mm256_maskload_ps(op->bias + n, lanes);
      if (kPaired) up_bias = _mm256_maskload_ps(op->bias + op->columns + n, lanes);
    }
    for (int32_t r = 0; r < b->rows; r++) {
      __m256 v = _mm256_add_ps(_mm256_loadu_ps(sums + r * kTile + 8 * half), bias);
      if (kPaired)
        v = _mm256_mul_ps(silu_ps(v), _mm256_add_ps(_mm256_loadu_ps(up_sums + r * kTile + 8 * half),
                                                    up_bias));
      if (ACTIVATION == kRelu) v = _mm256_max_ps(_mm256_setzero_ps(), v);  // a NaN stays
      if (ACTIVATION == kGelu) v = gelu_ps(v);
      if (ACTIVATION == kGeluTanh) v = gelu_tanh_ps(v);
      if (residual) {
        v = _mm256_add_ps(v, _mm256_maskload_ps(residual, lanes));
        residual += op->columns;
      }
      _mm256_maskstore_ps(y, lanes, v);
      y += part->columns;
    }
  }
}

inline void write(const MatMul* op, const Block* block, int32_t tile, float* sums,
                  float* up_sums) {
  const Block of_x = whole_rows(op, block, sums, up_sums), *const b = &of_x;
  if (op->low_rank.rank) {
    float* const both[] = {sums, up_sums};
    add_low_rank_avx2(&op->low_rank, b->first, b->rows, tile, is_paired(op) ? 2 : 1, both);
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
