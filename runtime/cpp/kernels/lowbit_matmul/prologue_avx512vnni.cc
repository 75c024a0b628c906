// Prepare rows of X on AVX-512.

#include "../hadamard/vec_avx512.h"

#include "prologue.h"
#include "rms_norm.h"
#include "scale_row.h"

namespace bitfold {

void prepare_row_avx512(const Prologue* p, const float* x, float* y, int64_t k, float* scratch) {
  if (p->gain) {
    rms_norm(x, p->gain, p->epsilon, y, k);
    x = y;
  }
  if (p->hadamard.size) {
    hadamard_avx512(&p->hadamard, x, y, k / p->hadamard.size, scratch);
    x = y;
  }
  if (p->scales) scale_row(x, p->scales, y, k);
}

}  // namespace bitfold
