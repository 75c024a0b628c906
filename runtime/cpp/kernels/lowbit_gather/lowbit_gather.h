// Rows of a packed low-bit weight as floats.
#pragma once

#include "../packed_weight.h"

namespace bitfold {

// Write row `row` (0 <= row < n) of w, k floats, to `out`.
typedef void (*GatherRow)(const PackedWeight* w, int64_t row, float* out);

void gather_row_ref(const PackedWeight* w, int64_t row, float* out);
void gather_row_avx2(const PackedWeight* w, int64_t row, float* out);
void gather_row_avx512(const PackedWeight* w, int64_t row, float* out);
void gather_row_neon(const PackedWeight* w, int64_t row, float* out);

}  // namespace bitfold
