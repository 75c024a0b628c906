// Rows of floats as fixed point, for integer products on AVX-512: three rows of int8 for each.
//
// A group's inputs become integers n = round(x / s) of 24 bits, s a power of two, and these three
// balanced digits to the base 256: bytes in rows whose scales are 2**16 s, 2**8 s and s.  Their
// products are exact, and weights are unpacked once for all three, which takes far less time than
// to make a float of every weight.
//
// What is lost is s / 2 <= 2**-23 of the largest magnitude in the group, for each input: about what
// float32 keeps of the largest one, while small ones beside it lose their low bits.  In a sum over
// n inputs that comes to sqrt(n / 12) s.  Float32 sums, whose partial sums of some sqrt(n) inputs'
// size are rounded n times, err as much where the inputs are of one size; where a few are a thousand
// times larger than the others, half as much.

#include <string.h>

#include "matmul_avx512.h"

namespace bitfold {
namespace {

constexpr int kDigits = kFloatDigits;
constexpr int32_t kInfinity = 0x7f800000;

inline __mmask16 lanes_left(int64_t count) {
  return (__mmask16)(count >= 16 ? 0xFFFF : count > 0 ? (1u << count) - 1 : 0);
}

// The bits of the largest magnitude of a run of inputs.
inline int32_t reach_of(const float* x, int64_t count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 16)
    most = _mm512_max_epi32(
        most, _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes_left(count - i), x + i), magnitude));
  return _mm512_reduce_max_epi32(most);
}

// The exponent field of s: the least that keeps n within three digits, 127 (2**16 + 2**8 + 1).
// That is 2**22 times 1.992..., so that a larger mantissa takes the next power.
inline int32_t unit_field(int32_t reach) {
  const int32_t field = (int32_t)(((uint32_t)reach + 0x10101) >> 23) - 22;
  return field < 1 ? 1 : field;
}

inline float power(int32_t field) {
  const int32_t bits = field << 23;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// The digits of 16 inputs, in each 128 bits those of four: the highest of all four, then the others.
inline __m512i digits_of(__m512 x, __m512 inverse) {
  const __m512i bias = _mm512_set1_epi32(0x808080);
  const __m512i n = _mm512_cvt_roundps_epi32(_mm512_mul_ps(x, inverse),
                                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512i bytes = _mm512_xor_si512(_mm512_add_epi32(n, bias), bias);
  return _mm512_shuffle_epi8(
      bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(2, 6, 10, 14, 1, 5, 9, 13, 0, 4, 8, 12, -1, -1,
                                                  -1, -1)));
}

// Write them into three of a block's rows.
template <int LANE = 0>
inline void store_digits(__m512i digits, int32_t* q, int64_t rows) {
  const __m128i four = _mm512_extracti32x4_epi32(digits, LANE);
  _mm_storel_epi64((__m128i*)q, four);
  q[2] = _mm_extract_epi32(four, 2);
  if constexpr (LANE < 3) store_digits<LANE + 1>(digits, q + rows, rows);
}

// Three rows of a block for one of X; `at` is the first.
void write_row(const MatMul* op, const Block* b, int32_t at, const float* x) {
  const PackedWeight* w = op->weight;
  const int64_t rows = b->rows;
  int32_t* q = b->q + at;
  int32_t furthest = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    const int64_t k0 = (int64_t)g * w->group_size, left = w->k - k0;
    const int64_t count = w->group_size < left ? w->group_size : left;
    const int32_t reach = reach_of(x + k0, count), field = unit_field(reach);
    furthest = furthest > reach ? furthest : reach;
    const __m512 inverse = _mm512_set1_ps(power(254 - field));
    __m512i sums = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16, q += 4 * rows) {
      const __m512 from = _mm512_maskz_loadu_ps(lanes_left(count - i), x + k0 + i);
      const __m512i digits = digits_of(from, inverse);
      sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), digits);
      store_digits(digits, q, rows);
    }
    alignas(16) int32_t sum[4];
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
    _mm_store_si128((__m128i*)sum, _mm_add_epi32(_mm256_castsi256_si128(half),
                                                 _mm256_extracti128_si256(half, 1)));
    for (int j = 0; j < kDigits; j++) {
      const int64_t place = g * rows + at + j;
      b->scale[place] = power(field + 8 * (kDigits - 1 - j));
      b->start[place] = -op->offset * sum[j];
      b->sum[place] = (float)sum[j];
    }
  }
  // What fills the last chunk.
  for (int64_t i = round_up(w->k, 16); i < padded_k(w); i += 4, q += rows)
    for (int j = 0; j < kDigits; j++) q[j] = 0;
  if (furthest < kInfinity) return;
  for (int j = 0; j < kDigits; j++) poison(w, b, at + j);
}

}  // namespace

void write_fixed_rows_avx512(const MatMul* op, int32_t index, const float* x) {
  const Block b = block_at(op, index);
  for (int32_t at = 0; at < b.rows; at += kDigits, x += op->weight->k) write_row(op, &b, at, x);
}

}  // namespace bitfold
