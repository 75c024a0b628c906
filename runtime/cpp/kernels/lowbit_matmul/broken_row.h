// What quantizing kernels make of a row that holds a NaN or an infinity.
//
// Internal linkage: ISA files include this.
#pragma once

#include <math.h>

#include "lowbit_matmul.h"

namespace bitfold {

// Mark row r of a block as broken: all it makes is NaN.
static inline void poison(const PackedWeight* w, const Block* b, int32_t r) {
  for (int64_t i = 0; i < padded_k(w) / 4; i++) b->q[i * b->rows + r] = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    b->scale[g * b->rows + r] = NAN;
    b->start[g * b->rows + r] = 0;
    b->sum[g * b->rows + r] = 0;
  }
}

}  // namespace bitfold
