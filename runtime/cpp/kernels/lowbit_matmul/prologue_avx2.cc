// Prepare rows of X on AVX2.

#include "../hadamard/vec_avx2.h"

#include "prologue.h"
#include "rms_norm.h"
#include "scale_row.h"

namespace bitfold {

void prepare_row_avx2(const Prologue* p, const float* x, float* y, int64_t k, float* scratch) {
  if (p->gain) {
    rms_norm(x, p->gain, p->epsilon, y, k);
    x = y;
  }
  if (p->hadamard.size) {
    hadamard_avx2(&p->hadamard, x, y, k / p->hadamard.size, scratch);
    x = y;
  }
  if (p->scales) scale_row(x, p->scales, y, k);
}

}  // namespace bitfold
