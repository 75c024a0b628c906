// Prepare blocks of X on AVX2; see quantize_activation_avx512vnni.cc.

#include "avx2.h"
#include "broken_row.h"

#include <math.h>
#include <string.h>

namespace bitfold {
namespace {

constexpr float kTiny = 1e-30f;
constexpr int32_t kInfinity = 0x7f800000;

inline float as_float(int32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline __m256i lanes_left(int64_t count) { return lanes_of(0, count); }

inline int32_t sum_lanes(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

// Bits of the largest |x|; infinity's bits or more when a value is not finite.
inline int32_t reach_bits(const float* x, int64_t count) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  for (int64_t i = 0; i < count; i += 8) {
    __m256i value = count - i >= 8 ? _mm256_loadu_si256((const __m256i*)(x + i))
                                   : _mm256_maskload_epi32((const int*)(x + i),
                                                           lanes_left(count - i));
    most = _mm256_max_epi32(most, _mm256_and_si256(value, magnitude));
  }
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return _mm_cvtsi128_si32(m);
}

// Round up to 8 inputs, write them as two interleaved int32, return them for the sum.
inline __m256i round_8(const float* x, int64_t count, __m256 inverse, int32_t* q, int32_t rows) {
  const __m256 value =
      count >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, lanes_left(count));
  // Only a given scale lets values go beyond int8.
  const __m256 top = _mm256_set1_ps(127), bottom = _mm256_set1_ps(-127);
  const __m256 scaled = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(value, inverse), bottom), top);
  const __m256i rounded = _mm256_cvtps_epi32(
      _mm256_round_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded),
                                  _mm256_extracti128_si256(rounded, 1));
  __m128i bytes = _mm_packs_epi16(words, words);
  q[0] = _mm_cvtsi128_si32(bytes);
  q[rows] = _mm_extract_epi32(bytes, 1);
  return rounded;
}

}  // namespace

void quantize_avx2(const MatMul* op, int32_t index, const float* rows_x) {
  if (op->digits > 1) return write_fixed_rows_avx2(op, index, rows_x);
  const PackedWeight* w = op->weight;
  Block block = block_at(op, index);
  const int32_t rows = block.rows;
  const bool whole = op->act_group_size >= w->k;
  const float top = act_top(op);
  for (int32_t r = 0; r < rows; r++) {
    const float* x = rows_x + r * w->k;
    int32_t* q = block.q + r;
    int32_t row_reach = whole ? reach_bits(x, w->k) : 0;
    bool broken = row_reach >= kInfinity;
    for (int32_t g = 0; g < w->groups && !broken; g++) {
      const int64_t k0 = (int64_t)g * w->group_size;
      const int64_t count = w->group_size < w->k - k0 ? w->group_size : w->k - k0;
      const int32_t bits = whole ? row_reach : reach_bits(x + k0, count);
      broken |= bits >= kInfinity;
      const float amax = as_float(bits);
      const float given = op->act_scale;
      const __m256 inverse =
          _mm256_set1_ps(given > 0 ? 1 / given : amax < kTiny ? 0 : top / amax);
      __m256i sums = _mm256_setzero_si256();
      for (int64_t i = 0; i < count; i += 8)
        sums = _mm256_add_epi32(
            sums, round_8(x + k0 + i, count - i, inverse, q + (k0 + i) / 4 * rows, rows));
      const int32_t sum = sum_lanes(sums);
      block.scale[g * rows + r] = given > 0 ? given : amax < kTiny ? 0 : amax / top;
      block.start[g * rows + r] = -op->offset * sum;
      block.sum[g * rows + r] = (float)sum;
    }
    for (int64_t i = round_up(w->k, 8) / 4; i < padded_k(w) / 4; i++) q[i * rows] = 0;
    if (broken) poison(w, &block, r);
  }
}

void interleave_avx2(const MatMul* op, int32_t index, const float* rows_x) {
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
