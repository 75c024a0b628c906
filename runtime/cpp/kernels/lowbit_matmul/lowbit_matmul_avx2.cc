// LowBitMatMul on AVX2: vpmaddubsw and vpmaddwd.

#include "matmul_avx2.h"

namespace bitfold {

const MatMulKernels kMatMulAvx2 = {
    "avx2", kBlockRows, offset, prepare_row_avx2, project_avx2,
    quantize_avx2, interleave_avx2, scratch, multiply, float_digits};

}  // namespace bitfold
