// LowBitMatMul on AVX-VNNI: vpdpbusd in 256-bit registers, for CPUs without AVX-512.

#include "matmul_avx2.h"

namespace bitfold {

const MatMulKernels kMatMulAvxVnni = {
    "avxvnni", kBlockRows, offset, prepare_row_avx2, project_avx2,
    quantize_avx2, interleave_avx2, scratch, multiply, float_digits};

}  // namespace bitfold
