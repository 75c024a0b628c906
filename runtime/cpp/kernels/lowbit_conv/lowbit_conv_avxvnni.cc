// LowBitConv on AVX-VNNI: vpdpbusd in 256-bit registers, for CPUs without AVX-512.

#include "windows_avx2.h"

namespace bitfold {

const ConvKernels kConvAvxVnni = {
    "avxvnni",   offset, quantize_pixels_avx2, scratch,
    multiply, store,  depthwise_avx2,       depthwise_scratch_avx2};

}  // namespace bitfold
