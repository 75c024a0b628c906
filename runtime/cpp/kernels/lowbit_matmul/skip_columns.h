// Skipped columns: runs of a row's inputs that weigh little are taken as zeros, so that a kernel
// need not read their weights (WINA, arXiv 2505.19427).
#pragma once

#include <stdint.h>

#include "prologue.h"

namespace bitfold {

// Zero all runs of 16 inputs of x [k] but the share `skip->keep` with the largest sums of
// |x| * norm; of equal ones those that come first are kept.  A row with a NaN stays as it is.
// False when there is no memory.
bool skip_columns(const Skip* skip, float* x, int64_t k);

// The whole prologue: y [k] = x [k], prepared.  False when there is no memory.
bool prepare_whole_row(PrepareRow prepare, const Prologue* p, const float* x, float* y, int64_t k,
                       float* scratch);

}  // namespace bitfold
