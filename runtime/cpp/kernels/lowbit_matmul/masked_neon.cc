// Masked weights on NEON: eight bytes at a time find their places in a table.

#include <arm_neon.h>

#include "masked.h"
#include "spread_table.h"

namespace bitfold {
namespace {

void spread(uint8_t* bytes, const uint8_t* masks, int64_t steps, const uint8_t* zero) {
  uint8_t kept[kLine];
  for (int64_t step = 0; step < steps; step++, bytes += kLine) {
    const uint64_t mask = mask_at(masks, step);
    memcpy(kept, bytes, kLine);
    int next = 0;
    for (int i = 0; i < kLine; i += 8) {
      const int eight = mask >> i & 255;
      const uint8x8_t index = vld1_u8(kSpread.index[eight]);
      vst1_u8(bytes + i, vtbx1_u8(vld1_u8(zero + i), vld1_u8(kept + next), index));
      next += __builtin_popcount(eight);
    }
  }
}

}  // namespace

const MaskedKernels kMaskedNeon = {spread, nullptr};

}  // namespace bitfold
