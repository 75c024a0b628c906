// The kernels that this process uses, chosen once by what the CPU has.
#pragma once

#include "fused_attention/fused_attention.h"
#include "hadamard/hadamard.h"
#include "lowbit_conv/lowbit_conv.h"
#include "lowbit_gather/lowbit_gather.h"
#include "lowbit_matmul/lowbit_matmul.h"
#include "lowbit_matmul/masked.h"
#include "lowbit_matmul/planes.h"

namespace bitfold {

struct Kernels {
  const char* isa;
  const MatMulKernels* matmul;
  GatherRow gather_row;
  const ConvKernels* conv;
  HadamardBlocks hadamard;
  const PlaneKernels* planes;
  const AttentionKernels* attention;
  const MaskedKernels* masked;
};

// Chosen at the first call; BITFOLD_ISA overrides it.  Null when BITFOLD_ISA names an ISA that
// this build or CPU lacks: `kernels_error` then says so.
const Kernels* kernels();
const char* kernels_error();

// Names of the ISAs that this build and CPU have, widest last, separated by commas.
const char* supported_isas();

}  // namespace bitfold
