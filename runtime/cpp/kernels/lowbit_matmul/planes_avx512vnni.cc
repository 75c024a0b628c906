// Bit-plane products on AVX-512 that cannot count bits: half bytes are looked up.

#include "planes_kernels_avx512.h"

namespace bitfold {
namespace {

struct LookUp {
  static constexpr bool kWords = false;
  static inline __m512i of_bytes(__m512i x) {
    const __m512i counts = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i half = _mm512_set1_epi8(15);
    const __m512i low = _mm512_and_si512(x, half);
    const __m512i high = _mm512_and_si512(_mm512_srli_epi16(x, 4), half);
    return _mm512_add_epi8(_mm512_shuffle_epi8(counts, low), _mm512_shuffle_epi8(counts, high));
  }
};

}  // namespace

const PlaneKernels kPlanesAvx512 = plane_kernels<LookUp, 1>("avx512vnni");

}  // namespace bitfold
