// Y = Conv(X, W) for a packed low-bit weight: what the driver and the ISA files share.
//
// Three ways: with int8 activations every pixel is quantized once, and a window's taps are read
// through a list of pixels, with no copy of them; with float activations blocks of windows are
// gathered into rows for LowBitMatMul's kernels; and depthwise convolutions are computed
// directly in float.
//
// One spatial axis is two of which the first has size 1.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../lowbit_matmul/lowbit_matmul.h"
#include "../packed_weight.h"

namespace bitfold {

struct Conv {
  const PackedWeight* weight;  // n is the outputs of one bank, tiles are those of all
  const float* bias;           // [N] or null
  float least, most;           // outputs are clamped to these, infinite for no activation
  bool hardswish;              // then times clamp(y / 6 + 1/2, 0, 1)
  float scale, shift;          // then y * scale + shift
  const float* residual;       // [images][outputs][out], added last, or null
  bool int8;                   // acts=int8
  int64_t act_group_size;      // channels that share a pixel's scale
  int64_t images, channels, outputs, groups;
  int64_t size[2], out[2];     // height and width
  int64_t kernel[2], stride[2], pad[2], dilation[2];
  const float* x;              // [images][channels][size]
  float* y;                    // [images][outputs][out]
};

static inline int64_t conv_taps(const Conv* c) { return c->kernel[0] * c->kernel[1]; }
static inline int64_t conv_pixels(const Conv* c) { return c->size[0] * c->size[1]; }
static inline int64_t conv_windows(const Conv* c) { return c->out[0] * c->out[1]; }
// Channels of a conv group.
static inline int64_t conv_depth(const Conv* c) { return c->channels / c->groups; }

// Whether every window is one pixel, that of its own number.
static inline bool conv_is_pointwise(const Conv* c) {
  return conv_taps(c) == 1 && c->out[0] == c->size[0] && c->out[1] == c->size[1] &&
         c->pad[0] == 0 && c->pad[1] == 0 && c->stride[0] == 1 && c->stride[1] == 1;
}

// Whether more is done to outputs than clamp them and add the residual.
static inline bool conv_has_tail(const Conv* c) {
  return c->hardswish || c->scale != 1 || c->shift != 0;
}

// Quantized pixels of one image's conv group, all or a run of them, and one more that is zeros,
// for padding.
struct Pixels {
  int64_t count;   // without the zeros
  int64_t stride;  // bytes of a pixel: its channels, padded to a multiple of 16
  int32_t parts;   // weight groups of a tap
  int32_t offset;  // of the operand bytes that the kernel will multiply
  int8_t* q;       // [count + 1][stride]
  float* scale;    // [parts][count + 1]  NaN where a value is NaN or infinite
  int32_t* start;  // [parts][count + 1]  -offset * sum of q over the part
  float* sum;      // [parts][count + 1]  sum of q over the part
};

// Windows of one image that one task multiplies by some tiles of one bank.
struct Windows {
  const Conv* conv;
  const PackedWeight* weight;  // the bank's
  const float* bias;           // the bank's, or null
  const Pixels* pixels;
  const int32_t* index;        // [taps][count]: the pixel under each tap
  int64_t count;
  int32_t tile0, tile1;
  float* y;                    // the first window's output of the bank's first channel
  const float* residual;       // what is added there, or null
};

// One ISA's kernels.
struct ConvKernels {
  const char* isa;
  // The offset that `quantize` must remove.
  int32_t (*offset)(const PackedWeight* w);
  // Round the pixels [first, last) of `pixels` to int8; x is the first one's first channel.
  void (*quantize)(const Conv* c, const float* x, const Pixels* pixels, int64_t first,
                   int64_t last);
  // Scratch bytes that one call of `multiply` needs.
  int64_t (*scratch)(const PackedWeight* w);
  void (*multiply)(const Windows* windows, uint8_t* scratch);
  // Write sums of one tile, 16 for each window and `stride` floats apart, to Y: transposed, and
  // after all that the specification does to sums.  `first` is the tile's first channel in the
  // bank; counts, weight, bias, y and residual are those of `windows`.
  void (*store)(const Windows* windows, const float* sums, int64_t stride, int64_t first);
  // Outputs [first, last) of one image of a depthwise convolution.
  void (*depthwise)(const Conv* c, int64_t image, int64_t first, int64_t last, uint8_t* scratch);
  int64_t (*depthwise_scratch)(const Conv* c);
};

extern const ConvKernels kConvRef;
#if defined(BITFOLD_X86)
extern const ConvKernels kConvAvx2;
extern const ConvKernels kConvAvxVnni;
extern const ConvKernels kConvAvx512Vnni;
#elif defined(BITFOLD_ARM64)
extern const ConvKernels kConvNeon;
#endif

// Run a convolution; see run_matmul.  False when there is no memory.
bool run_conv(const ConvKernels* kernels, const MatMulKernels* matmul, const Conv& conv,
              ParallelFor parallel, void* context);

}  // namespace bitfold
