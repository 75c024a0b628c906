// NEON: runs of up to 64 floats in one pass.

#include "vec_neon.h"

#include "butterflies.h"

namespace bitfold {

void hadamard_neon(const Hadamard* h, const float* x, float* y, int64_t blocks, float* scratch) {
  hadamard_blocks(h, x, y, blocks, scratch);
}

}  // namespace bitfold
