// What the AVX2 files of the convolution share.
#pragma once

#include "../lowbit_matmul/avx2.h"
#include "lowbit_conv.h"

namespace bitfold {

void quantize_pixels_avx2(const Conv* c, const float* x, const Pixels* pixels, int64_t first,
                          int64_t last);
void depthwise_avx2(const Conv* c, int64_t image, int64_t first, int64_t last, uint8_t* scratch);
int64_t depthwise_scratch_avx2(const Conv* c);

}  // namespace bitfold
