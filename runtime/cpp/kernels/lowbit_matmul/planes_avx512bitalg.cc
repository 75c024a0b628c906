// Bit-plane products on AVX-512 with BITALG and VPOPCNTDQ, which count the bits of 64 bytes, or of
// 16 words, at once.

#include "planes_kernels_avx512.h"

namespace bitfold {
namespace {

struct Bitalg {
  static constexpr bool kWords = true;
  static inline __m512i of_bytes(__m512i x) { return _mm512_popcnt_epi8(x); }
  static inline __m512i of_words(__m512i x) { return _mm512_popcnt_epi32(x); }
};

}  // namespace

const PlaneKernels kPlanesBitalg = plane_kernels<Bitalg, 4>("avx512bitalg");

}  // namespace bitfold
