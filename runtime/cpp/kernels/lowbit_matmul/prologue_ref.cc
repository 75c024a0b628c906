// Scalar: the plainest code that follows prologue.h.

#include "prologue.h"

#include <math.h>

namespace bitfold {

void prepare_row_ref(const Prologue* p, const float* x, float* y, int64_t k, float* scratch) {
  if (p->gain) {
    float squares = 0;
    for (int64_t i = 0; i < k; i++) squares += x[i] * x[i];
    const float inverse = 1 / sqrtf(squares / (float)k + p->epsilon);
    for (int64_t i = 0; i < k; i++) y[i] = x[i] * inverse * p->gain[i];
    x = y;
  }
  if (p->hadamard.size) {
    hadamard_ref(&p->hadamard, x, y, k / p->hadamard.size, scratch);
    x = y;
  }
  for (int64_t i = 0; p->scales && i < k; i++) y[i] = x[i] * p->scales[i];
}

}  // namespace bitfold
