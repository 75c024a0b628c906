// Rows of floats as fixed point on AVX2.

#include "avx2.h"
#include "fixed_rows_simd.h"

namespace bitfold {
namespace {

struct V {
  static constexpr int64_t kLanes = 8;
  typedef __m256i Sums;  // two of each digit, and of zeros

  static Sums none() { return _mm256_setzero_si256(); }

  static __m256 load(const float* x, int64_t count) {
    return count >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, lanes_of(0, count));
  }

  static int32_t reach(const float* x, int64_t count) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    for (int64_t i = 0; i < count; i += 8)
      most = _mm256_max_epi32(
          most, _mm256_and_si256(_mm256_castps_si256(load(x + i, count - i)), magnitude));
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
  }

  static void write(const float* x, int64_t count, float inverse, int32_t* q, int64_t rows,
                    Sums& sums) {
    const __m256i bias = _mm256_set1_epi32(0x808080);
    const __m256 scaled = _mm256_mul_ps(load(x, count), _mm256_set1_ps(inverse));
    const __m256i n = _mm256_cvtps_epi32(
        _mm256_round_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    const __m256i bytes = _mm256_xor_si256(_mm256_add_epi32(n, bias), bias);
    // In each 128 bits: the highest digit of four inputs, then the others.
    const __m256i digits = _mm256_shuffle_epi8(
        bytes, _mm256_broadcastsi128_si256(
                   _mm_setr_epi8(2, 6, 10, 14, 1, 5, 9, 13, 0, 4, 8, 12, -1, -1, -1, -1)));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), digits);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    store(_mm256_castsi256_si128(digits), q);
    store(_mm256_extracti128_si256(digits, 1), q + rows);
  }

  static void total(Sums sums, int32_t* sum) {
    store(_mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)), sum);
  }

 private:
  static void store(__m128i three, int32_t* to) {
    _mm_storel_epi64((__m128i*)to, three);
    to[2] = _mm_extract_epi32(three, 2);
  }
};

}  // namespace

void write_fixed_rows_avx2(const MatMul* op, int32_t index, const float* x) {
  write_fixed_rows<V>(op, index, x);
}

}  // namespace bitfold
