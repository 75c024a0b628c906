// Prepare blocks of X on AVX-512: round rows to int8 and interleave them, or only interleave.
//
// Plain multiplications and divisions in f32, in the specification's order: the codes are the
// same as those of a stock-ONNX function body.

#include "matmul_avx512.h"

#include <math.h>
#include <string.h>

namespace bitfold {
namespace {

constexpr float kTiny = 1e-30f;
constexpr int32_t kInfinity = 0x7f800000;

inline __mmask16 lanes_left(int64_t count) {
  return (__mmask16)(count >= 16 ? 0xFFFF : (1u << count) - 1);
}

// Bits of the largest |x|; infinity's bits or more when a value is not finite.
inline int32_t reach_bits(const float* x, int64_t count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
  if (i < count)
    most = _mm512_max_epi32(
        most, _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes_left(count - i), x + i), magnitude));
  return _mm512_reduce_max_epi32(most);
}

inline float as_float(int32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Mark row r of a block as broken: it holds a NaN or an infinity.
void poison(const PackedWeight* w, Block* b, int32_t r) {
  for (int64_t i = 0; i < padded_k(w) / 4; i++) b->q[i * b->rows + r] = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    b->scale[g * b->rows + r] = NAN;
    b->start[g * b->rows + r] = 0;
    b->sum[g * b->rows + r] = 0;
  }
}

// Round up to 16 inputs, write them as four interleaved int32, return them for the sum.
inline __m512i round_16(const float* x, __mmask16 lanes, __m512 inverse, int32_t* q,
                        int32_t rows) {
  __m512i value = _mm512_cvt_roundps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x), inverse),
                                           _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m128i bytes = _mm512_cvtepi32_epi8(value);
  if (rows == 1) {
    _mm_storeu_si128((__m128i*)q, bytes);
  } else {
    q[0] = _mm_cvtsi128_si32(bytes);
    q[rows] = _mm_extract_epi32(bytes, 1);
    q[2 * rows] = _mm_extract_epi32(bytes, 2);
    q[3 * rows] = _mm_extract_epi32(bytes, 3);
  }
  return value;
}

}  // namespace

void quantize_avx512(const MatMul* op, int32_t index) {
  const PackedWeight* w = op->weight;
  Block block = block_at(op, index);
  const int32_t rows = block.rows;
  const bool whole = op->act_group_size >= w->k;
  for (int32_t r = 0; r < rows; r++) {
    const float* x = op->x + (block.first + r) * w->k;
    int32_t* q = block.q + r;
    float row_reach = 0;
    if (whole) {
      int32_t bits = reach_bits(x, w->k);
      if (bits >= kInfinity) {
        poison(w, &block, r);
        continue;
      }
      row_reach = as_float(bits);
    }
    bool broken = false;
    for (int32_t g = 0; g < w->groups; g++) {
      const int64_t k0 = (int64_t)g * w->group_size;
      const int64_t count = w->group_size < w->k - k0 ? w->group_size : w->k - k0;
      float amax = row_reach;
      if (!whole) {
        int32_t bits = reach_bits(x + k0, count);
        broken |= bits >= kInfinity;
        amax = as_float(bits);
      }
      const __m512 inverse = _mm512_set1_ps(amax < kTiny ? 0 : 127.0f / amax);
      __m512i sums = _mm512_setzero_si512();
      for (int64_t i = 0; i < count; i += 16)
        sums = _mm512_add_epi32(sums, round_16(x + k0 + i, lanes_left(count - i), inverse,
                                               q + (k0 + i) / 4 * rows, rows));
      const int32_t sum = _mm512_reduce_add_epi32(sums);
      block.scale[g * rows + r] = amax < kTiny ? 0 : amax / 127.0f;
      block.start[g * rows + r] = -op->offset * sum;
      block.sum[g * rows + r] = (float)sum;
    }
    // The channels that fill the last chunk: round_16 wrote up to a multiple of 16.
    for (int64_t i = round_up(w->k, 16) / 4; i < padded_k(w) / 4; i++) q[i * rows] = 0;
    if (broken) poison(w, &block, r);
  }
}

void interleave_avx512(const MatMul* op, int32_t index) {
  const PackedWeight* w = op->weight;
  Block block = block_at(op, index);
  const int32_t rows = block.rows;
  for (int32_t r = 0; r < rows; r++) {
    const float* x = op->x + (block.first + r) * w->k;
    const bool broken = reach_bits(x, w->k) >= kInfinity;
    block.scale[r] = broken ? NAN : 1.0f;
    for (int64_t k = 0; k < w->k; k++) block.x[k * rows + r] = broken ? 0 : x[k];
    for (int64_t k = w->k; k < padded_k(w); k++) block.x[k * rows + r] = 0;
    for (int32_t g = 0; g < w->groups; g++) {
      const int64_t k0 = (int64_t)g * w->group_size;
      const int64_t count = w->group_size < w->k - k0 ? w->group_size : w->k - k0;
      __m512 sum = _mm512_setzero_ps();
      for (int64_t i = 0; i < count; i += 16)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes_left(count - i), x + k0 + i));
      block.sum[g * rows + r] = broken ? 0 : _mm512_reduce_add_ps(sum);
    }
  }
}

}  // namespace bitfold
