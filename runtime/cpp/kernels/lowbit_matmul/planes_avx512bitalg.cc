// Bit-plane products on AVX-512 with BITALG, which counts the bits of 64 bytes at once.

#include "planes_kernels_avx512.h"

namespace bitfold {
namespace {

struct Bitalg {
  static inline __m512i of_bytes(__m512i x) { return _mm512_popcnt_epi8(x); }
};

}  // namespace

const PlaneKernels kPlanesBitalg = plane_kernels<Bitalg, 4>("avx512bitalg");

}  // namespace bitfold
