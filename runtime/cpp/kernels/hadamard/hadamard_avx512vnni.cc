// AVX-512: runs of up to 256 floats in one pass.

#include "vec_avx512.h"

#include "butterflies.h"

namespace bitfold {

void hadamard_avx512(const Hadamard* h, const float* x, float* y, int64_t blocks, float* scratch) {
  hadamard_blocks(h, x, y, blocks, scratch);
}

}  // namespace bitfold
