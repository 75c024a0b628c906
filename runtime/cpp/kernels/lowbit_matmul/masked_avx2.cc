// Masked weights on AVX2: eight bytes at a time find their places in a table.

#include <immintrin.h>

#include "masked.h"
#include "spread_table.h"

namespace bitfold {
namespace {

inline __m128i low_half(const uint8_t* from) { return _mm_loadl_epi64((const __m128i*)from); }

void spread(uint8_t* bytes, const uint8_t* masks, int64_t steps, const uint8_t* zero) {
  uint8_t kept[kLine];
  for (int64_t step = 0; step < steps; step++, bytes += kLine) {
    const uint64_t mask = mask_at(masks, step);
    memcpy(kept, bytes, kLine);
    int next = 0;
    for (int i = 0; i < kLine; i += 8) {
      const int eight = mask >> i & 255;
      const __m128i index = low_half(kSpread.index[eight]);
      const __m128i placed = _mm_shuffle_epi8(low_half(kept + next), index);
      _mm_storel_epi64((__m128i*)(bytes + i), _mm_blendv_epi8(placed, low_half(zero + i), index));
      next += __builtin_popcount(eight);
    }
  }
}

}  // namespace

const MaskedKernels kMaskedAvx2 = {spread, nullptr};

}  // namespace bitfold
