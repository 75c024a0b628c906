// Matrix multiplication on AVX-512 with VBMI and GFNI, which unpack codes in fewer steps and look
// any table up at once.

#include "few_rows_avx512.h"

namespace bitfold {

const MatMulKernels kMatMulAvx512Vbmi = matmul_kernels("avx512vbmi");

}  // namespace bitfold
