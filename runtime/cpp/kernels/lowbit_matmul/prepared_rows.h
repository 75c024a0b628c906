// What is made of X once, before it is quantized.
#pragma once

#include "lowbit_matmul.h"

namespace bitfold {

// Both return false when there is no memory.

// Run the prologue, and let X be what it made: for what reads X besides the quantizer.
bool keep_prepared_rows(const MatMulKernels* kernels, MatMul* op, ParallelFor parallel,
                        void* context);
// Multiply X by the low-rank branch's D.
bool project_rows(const MatMulKernels* kernels, MatMul* op, ParallelFor parallel, void* context);

}  // namespace bitfold
