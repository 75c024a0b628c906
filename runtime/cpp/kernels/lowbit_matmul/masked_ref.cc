// Masked weights, one by one.

#include "masked.h"

namespace bitfold {
namespace {

void spread(uint8_t* bytes, const uint8_t* masks, int64_t steps, const uint8_t* zero) {
  for (int64_t step = 0; step < steps; step++, bytes += kLine) {
    const uint64_t mask = mask_at(masks, step);
    uint8_t kept[kLine];
    memcpy(kept, bytes, kLine);
    for (int i = 0, next = 0; i < kLine; i++) bytes[i] = mask >> i & 1 ? kept[next++] : zero[i];
  }
}

}  // namespace

const MaskedKernels kMaskedRef = {spread, nullptr};

}  // namespace bitfold
