// LowBitGather on AVX-512.

#include "gather_simd.h"
#include "lane_codes_avx2.h"

namespace bitfold {
namespace {

struct V {
  typedef __m512 Vector;
  static constexpr int kLanes = 16;
  static Vector set(float value) { return _mm512_set1_ps(value); }
  static Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
  static void store_part(float* to, Vector v, int64_t count) {
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), v);
  }
  static __m512i index(const uint8_t* codes) {
    return _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i*)codes));
  }
  static Vector floats_of(const uint8_t* codes) { return _mm512_cvtepi32_ps(index(codes)); }
  static Vector look_up(const float* table, const uint8_t* codes) {
    return _mm512_i32gather_ps(index(codes), table, 4);
  }
  // Four bytes are read; PackedWeight has more of them behind the table.
  static Vector look_up(const uint8_t* table, const uint8_t* codes) {
    const __m512i found = _mm512_i32gather_epi32(index(codes), table, 1);
    return _mm512_cvtepi32_ps(_mm512_and_si512(found, _mm512_set1_epi32(255)));
  }
  template <int BITS>
  static void codes(const uint8_t* lane, uint8_t* codes) {
    lane_codes<BITS>(lane, codes);
  }
};

}  // namespace

void gather_row_avx512(const PackedWeight* w, int64_t row, float* out) {
  gather_row_with<V>(w, row, out);
}

}  // namespace bitfold
