// Scalar: the plainest code that follows hadamard.h.

#include <string.h>

#include "hadamard.h"

namespace bitfold {

void hadamard_ref(const Hadamard* h, const float* x, float* y, int64_t blocks, float* scratch) {
  const int64_t run = (int64_t)1 << h->bits, m = h->base;
  if (y != x) memcpy(y, x, blocks * h->size * sizeof(float));
  for (int64_t b = 0; b < blocks; b++, y += h->size) {
    for (int64_t half = 1; half < run; half *= 2)
      for (int64_t i = 0; i < h->size; i++) {
        if (i & half) continue;
        const float low = y[i], high = y[i + half];
        y[i] = low + high;
        y[i + half] = low - high;
      }
    for (int64_t column = 0; m > 1 && column < run; column++) {
      for (int64_t i = 0; i < m; i++) scratch[i] = y[i * run + column];
      for (int64_t j = 0; j < m; j++) {
        float sum = 0;
        for (int64_t i = 0; i < m; i++)
          sum += h->signs[j * (m / 4) + i / 4] >> (i % 4) & 1 ? -scratch[i] : scratch[i];
        y[j * run + column] = sum;
      }
    }
    for (int64_t i = 0; i < h->size; i++) y[i] *= h->scale;
  }
}

}  // namespace bitfold
