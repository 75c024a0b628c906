// Prepare blocks of X on AVX-512: round rows to bytes, or to planes of bits, and interleave them, or
// only interleave.
//
// Plain multiplications and divisions in f32, in the specification's order: the codes are the
// same as those of a stock-ONNX function body.

#include "matmul_avx512.h"

#include "planes.h"

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

// Mark row r of a block as broken: it holds a NaN or an infinity.
void poison(const PackedWeight* w, Block* b, int32_t r) {
  for (int64_t i = 0; i < padded_k(w) / 4; i++) b->q[i * b->rows + r] = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    b->scale[g * b->rows + r] = NAN;
    b->start[g * b->rows + r] = 0;
    b->sum[g * b->rows + r] = 0;
  }
}

inline __m512i rounded(__m512 x, __m512 inverse) {
  return _mm512_cvt_roundps_epi32(_mm512_mul_ps(x, inverse),
                                  _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Round up to 16 inputs and write them as four interleaved int32.  Returns their sum, each
// byte raised by 128, in two parts.
inline __m128i round_16(__m512 x, __m512 inverse, int32_t* q, int64_t rows) {
  const __m128i bytes = _mm512_cvtepi32_epi8(rounded(x, inverse));
  if (rows == 1) {
    _mm_storeu_si128((__m128i*)q, bytes);
  } else {
    q[0] = _mm_cvtsi128_si32(bytes);
    q[rows] = _mm_extract_epi32(bytes, 1);
    q[2 * rows] = _mm_extract_epi32(bytes, 2);
    q[3 * rows] = _mm_extract_epi32(bytes, 3);
  }
  return _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8((char)0x80)), _mm_setzero_si128());
}

// Turn the largest magnitudes [count] into scales, in place, and their inverses.  Whole vectors:
// both arrays are padded to 64 bytes.
inline void scales_of(float most, float* reach, float* inverses, int64_t count) {
  const __m512 top = _mm512_set1_ps(most);
  for (int64_t i = 0; i < count; i += 16) {
    const __m512 amax = _mm512_loadu_ps(reach + i);
    const __mmask16 alive = _mm512_cmp_ps_mask(amax, _mm512_set1_ps(kTiny), _CMP_GE_OQ);
    _mm512_storeu_ps(inverses + i, _mm512_maskz_div_ps(alive, top, amax));
    _mm512_storeu_ps(reach + i, _mm512_maskz_div_ps(alive, amax, top));
  }
}

// Two passes over a block: the reach of every row and group, then all scales at once.  Leaves the
// scales in b->scale, their inverses in b->sum, and which rows are broken.
void find_scales(const MatMul* op, Block* b, bool* broken) {
  const PackedWeight* w = op->weight;
  const int64_t rows = b->rows, k = w->k, size = w->group_size;
  const bool whole = op->act_group_size >= k;
  for (int32_t r = 0; r < rows; r++) {
    const float* x = op->x + (b->first + r) * k;
    int32_t reach = whole ? reach_bits(x, k) : 0;
    int32_t most = reach;
    int64_t k0 = 0;
    for (int32_t g = 0; g < w->groups; g++, k0 += size) {
      if (!whole) reach = reach_bits(x + k0, size < k - k0 ? size : k - k0);
      most = reach > most ? reach : most;
      memcpy(b->scale + g * rows + r, &reach, sizeof reach);
    }
    broken[r] = most >= kInfinity;
  }
  scales_of(act_top(op), b->scale, b->sum, w->groups * rows);
}

}  // namespace

void quantize_avx512(const MatMul* op, int32_t index) {
  const PackedWeight* w = op->weight;
  Block b = block_at(op, index);
  const int32_t groups = w->groups, offset = op->offset;
  const int64_t rows = b.rows;
  const int64_t k = w->k, size = w->group_size, padded = padded_k(w);
  bool broken[kBlockRows] = {};
  find_scales(op, &b, broken);
  for (int32_t r = 0; r < rows; r++) {
    const float* x = op->x + (b.first + r) * k;
    int32_t* q = b.q + r;
    int64_t k0 = 0;
    for (int32_t g = 0; g < groups; g++, k0 += size) {
      const int64_t count = size < k - k0 ? size : k - k0;
      const __m512 inverse = _mm512_set1_ps(b.sum[g * rows + r]);
      __m128i sums = _mm_setzero_si128();
      const float *from = x + k0, *end = from + count;
      for (; from + 16 <= end; from += 16, q += 4 * rows)
        sums = _mm_add_epi32(sums, round_16(_mm512_loadu_ps(from), inverse, q, rows));
      if (from < end) {
        const __m512 rest = _mm512_maskz_loadu_ps(lanes_left(end - from), from);
        sums = _mm_add_epi32(sums, round_16(rest, inverse, q, rows));
        q += 4 * rows;
      }
      const int32_t sum = _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) -
                          128 * (int32_t)round_up(count, 16);
      b.start[g * rows + r] = -offset * sum;
      b.sum[g * rows + r] = (float)sum;
    }
    // The channels that fill the last chunk: round_16 wrote up to a multiple of 16.
    for (int64_t i = round_up(k, 16) / 4; i < padded / 4; i++, q += rows) *q = 0;
    if (broken[r]) poison(w, &b, r);
  }
}

// Groups are whole chunks, or rows.
void quantize_planes_avx512(const MatMul* op, int32_t index) {
  const PackedWeight* w = op->weight;
  Block b = block_at(op, index);
  const int32_t rows = b.rows, bits = op->act_bits;
  bool broken[kBlockRows] = {};
  find_scales(op, &b, broken);
  // The channels of a plane's bits in turn: lanes of two vectors.
  alignas(64) int32_t channel[kChunk];
  for (int bit = 0; bit < kChunk; bit++) channel[bit] = channel_of_bit(w->bits, bit);
  const __m512i low = _mm512_load_si512(channel), high = _mm512_load_si512(channel + 16);
  for (int32_t r = 0; r < rows; r++) {
    const float* x = op->x + (b.first + r) * w->k;
    uint32_t* planes = (uint32_t*)b.q + r;
    for (int32_t g = 0; g < w->groups; g++) {
      const int32_t at = g * rows + r;
      const int64_t count = group_count(w, g);
      const __m512 inverse = _mm512_set1_ps(b.sum[at]);
      __m512i sums = _mm512_setzero_si512();
      for (int64_t left = count; left > 0; left -= kChunk, x += kChunk) {
        const __m512 first = _mm512_maskz_loadu_ps(lanes_left(left), x);
        const __m512 second = _mm512_maskz_loadu_ps(left > 16 ? lanes_left(left - 16) : 0, x + 16);
        const __m512i values[2] = {
            rounded(_mm512_permutex2var_ps(first, low, second), inverse),
            rounded(_mm512_permutex2var_ps(first, high, second), inverse)};
        sums = _mm512_add_epi32(sums, _mm512_add_epi32(values[0], values[1]));
        for (int32_t bit = 0; bit < bits; bit++, planes += rows) {
          const __m512i one = _mm512_set1_epi32(1 << bit);
          *planes = (uint32_t)_mm512_test_epi32_mask(values[1], one) << 16 |
                    (uint32_t)_mm512_test_epi32_mask(values[0], one);
        }
      }
      const int32_t sum = _mm512_reduce_add_epi32(sums);
      b.start[at] = start_of(op, sum, count);
      b.sum[at] = (float)sum;
    }
    if (broken[r]) poison(w, &b, r);
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
