// Rows of floats as fixed point on AVX-512.

#include "fixed_rows_simd.h"
#include "matmul_avx512.h"

namespace bitfold {
namespace {

struct V {
  static constexpr int64_t kLanes = 16;
  typedef __m512i Sums;  // four of each digit, and of zeros

  static Sums none() { return _mm512_setzero_si512(); }

  static __mmask16 lanes(int64_t count) {
    return (__mmask16)(count >= 16 ? 0xFFFF : (1u << count) - 1);
  }

  static int32_t reach(const float* x, int64_t count) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16)
      most = _mm512_max_epi32(
          most, _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes(count - i), x + i), magnitude));
    return _mm512_reduce_max_epi32(most);
  }

  static void write(const float* x, int64_t count, float inverse, int32_t* q, int64_t rows,
                    Sums& sums) {
    const __m512i bias = _mm512_set1_epi32(0x808080);
    const __m512 scaled =
        _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes(count), x), _mm512_set1_ps(inverse));
    const __m512i n =
        _mm512_cvt_roundps_epi32(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512i bytes = _mm512_xor_si512(_mm512_add_epi32(n, bias), bias);
    // In each 128 bits: the highest digit of four inputs, then the others.
    const __m512i digits = _mm512_shuffle_epi8(
        bytes, _mm512_broadcast_i32x4(
                   _mm_setr_epi8(2, 6, 10, 14, 1, 5, 9, 13, 0, 4, 8, 12, -1, -1, -1, -1)));
    sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), digits);
    store<0>(digits, q, rows);
  }

  static void total(Sums sums, int32_t* sum) {
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
    const __m128i all =
        _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storel_epi64((__m128i*)sum, all);
    sum[2] = _mm_extract_epi32(all, 2);
  }

 private:
  template <int LANE>
  static void store(__m512i digits, int32_t* q, int64_t rows) {
    const __m128i four = _mm512_extracti32x4_epi32(digits, LANE);
    _mm_storel_epi64((__m128i*)q, four);
    q[2] = _mm_extract_epi32(four, 2);
    if constexpr (LANE < 3) store<LANE + 1>(digits, q + rows, rows);
  }
};

}  // namespace

void write_fixed_rows_avx512(const MatMul* op, int32_t index, const float* x) {
  write_fixed_rows<V>(op, index, x);
}

}  // namespace bitfold
