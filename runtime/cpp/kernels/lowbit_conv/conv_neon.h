// What the NEON files of the convolution share.
#pragma once

#include "../lowbit_matmul/neon.h"
#include "lowbit_conv.h"

namespace bitfold {

void quantize_pixels_neon(const Conv* c, const float* x, const Pixels* pixels, int64_t first,
                          int64_t last);
void depthwise_neon(const Conv* c, int64_t image, int64_t first, int64_t last, uint8_t* scratch);
int64_t depthwise_scratch_neon(const Conv* c);

namespace {

// Transpose 4 x 4 floats.
BITFOLD_INLINE void transpose(float32x4_t (&v)[4]) {
  const float32x4_t a = vtrn1q_f32(v[0], v[1]), b = vtrn2q_f32(v[0], v[1]);
  const float32x4_t c = vtrn1q_f32(v[2], v[3]), d = vtrn2q_f32(v[2], v[3]);
  v[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
  v[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
  v[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
  v[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

}  // namespace
}  // namespace bitfold
