// What the AVX-512 files of the convolution share.
#pragma once

#include "../lowbit_matmul/avx512.h"
#include "lowbit_conv.h"

namespace bitfold {

void quantize_pixels_avx512(const Conv* c, const float* x, const Pixels* pixels, int64_t first,
                            int64_t last);
void depthwise_avx512(const Conv* c, int64_t image, int64_t first, int64_t last,
                      uint8_t* scratch);
int64_t depthwise_scratch_avx512(const Conv* c);

}  // namespace bitfold
