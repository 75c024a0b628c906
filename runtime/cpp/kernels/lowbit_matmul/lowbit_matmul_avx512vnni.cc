// Matrix multiplication on AVX-512 VNNI.

#include "few_rows_avx512.h"

namespace bitfold {

const MatMulKernels kMatMulAvx512Vnni = matmul_kernels("avx512vnni");

}  // namespace bitfold
