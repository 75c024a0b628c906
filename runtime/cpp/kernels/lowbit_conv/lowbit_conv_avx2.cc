// LowBitConv on AVX2: vpmaddubsw and vpmaddwd.

#include "windows_avx2.h"

namespace bitfold {

const ConvKernels kConvAvx2 = {
    "avx2",   offset, quantize_pixels_avx2, scratch,
    multiply, store,  depthwise_avx2,       depthwise_scratch_avx2};

}  // namespace bitfold
