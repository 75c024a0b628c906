// LowBitGather on AVX2.

#include "gather_simd.h"
#include "lane_codes_avx2.h"

namespace bitfold {
namespace {

struct V {
  typedef __m256 Vector;
  static constexpr int kLanes = 8;
  static Vector set(float value) { return _mm256_set1_ps(value); }
  static Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
  static void store_part(float* to, Vector v, int64_t count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)count), lanes), v);
  }
  static __m256i index(const uint8_t* codes) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)codes));
  }
  static Vector floats_of(const uint8_t* codes) { return _mm256_cvtepi32_ps(index(codes)); }
  static Vector look_up(const float* table, const uint8_t* codes) {
    return _mm256_i32gather_ps(table, index(codes), 4);
  }
  // Four bytes are read; PackedWeight has more of them behind the table.
  static Vector look_up(const uint8_t* table, const uint8_t* codes) {
    const __m256i found = _mm256_i32gather_epi32((const int*)table, index(codes), 1);
    return _mm256_cvtepi32_ps(_mm256_and_si256(found, _mm256_set1_epi32(255)));
  }
  template <int BITS>
  static void codes(const uint8_t* lane, uint8_t* codes) {
    lane_codes<BITS>(lane, codes);
  }
};

}  // namespace

void gather_row_avx2(const PackedWeight* w, int64_t row, float* out) {
  gather_row_with<V>(w, row, out);
}

}  // namespace bitfold
