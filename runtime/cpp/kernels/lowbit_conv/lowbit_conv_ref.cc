// Scalar kernels: the plainest code that follows the specification; any machine, any format.

#include <math.h>
#include <string.h>

#include "../scalar.h"
#include "lowbit_conv.h"

namespace bitfold {
namespace {

constexpr float kTiny = 1e-30f;

// NaN stays NaN.
float clamp(float value, float least, float most) {
  value = value < least ? least : value;
  return value > most ? most : value;
}

// What becomes of a biased sum; `residual` is what is added there, or null.
float finish(const Conv* c, float value, const float* residual) {
  value = clamp(value, c->least, c->most);
  if (c->hardswish) value *= clamp(value / 6 + 0.5f, 0, 1);
  value = value * c->scale + c->shift;
  return residual ? value + *residual : value;
}

// Largest |x| of a pixel's channels, or NaN when any is NaN or infinite.
float reach(const float* x, int64_t channels, int64_t plane) {
  float most = 0;
  for (int64_t i = 0; i < channels; i++) {
    if (!isfinite(x[i * plane])) return NAN;
    most = fmaxf(most, fabsf(x[i * plane]));
  }
  return most;
}

void quantize(const Conv* c, const float* x, const Pixels* p, int64_t first, int64_t last) {
  const int64_t depth = conv_depth(c), plane = conv_pixels(c), shared = c->act_group_size;
  const int64_t size = c->weight->group_size < depth ? c->weight->group_size : depth;
  for (int64_t i = first; i < last; i++) {
    int8_t* q = p->q + i * p->stride;
    memset(q, 0, p->stride);
    for (int32_t part = 0; part < p->parts; part++) {
      const int64_t begin = part * size, run = begin / shared * shared;
      const float amax = reach(x + run * plane + i, shared, plane);
      const bool dead = isnan(amax) || amax < kTiny;
      const float inverse = dead ? 0 : 127.0f / amax;
      int32_t sum = 0;
      for (int64_t channel = begin; channel < begin + size; channel++) {
        const float value = x[channel * plane + i];
        q[channel] = (int8_t)(dead ? 0 : nearbyintf(value * inverse));
        sum += q[channel];
      }
      const int64_t at = part * (p->count + 1) + i;
      p->scale[at] = isnan(amax) ? NAN : dead ? 0 : amax / 127.0f;
      p->start[at] = -p->offset * sum;
      p->sum[at] = (float)sum;
    }
  }
}

// One output: a window times one lane of a tile, whose operand bytes [k] are given.
float dot(const Windows* t, int64_t window, int32_t tile, int32_t lane, const uint8_t* operands) {
  const PackedWeight* w = t->weight;
  const Pixels* p = t->pixels;
  const int64_t size = w->k / w->groups;
  float total = 0;
  for (int64_t tap = 0; tap < conv_taps(t->conv); tap++) {
    const int64_t pixel = t->index[tap * t->count + window];
    const int8_t* q = p->q + pixel * p->stride;
    for (int32_t part = 0; part < p->parts; part++) {
      const int64_t group = tap * p->parts + part;
      const int64_t at = (tile * w->groups + group) * kTile + lane;
      const int64_t meta = part * (p->count + 1) + pixel;
      int32_t exact = p->start[meta];
      for (int64_t i = 0; i < size; i++) exact += operands[group * size + i] * q[part * size + i];
      const float zero = w->zero_points ? w->zero_points[at] : 0;
      total += ((float)exact - zero * p->sum[meta]) * scale_at(w, at) * p->scale[meta];
    }
  }
  return total;
}

void multiply(const Windows* t, uint8_t* operands) {
  const PackedWeight* w = t->weight;
  const int64_t plane = conv_windows(t->conv);
  for (int32_t tile = t->tile0; tile < t->tile1; tile++)
    for (int32_t lane = 0; lane < kTile && tile * kTile + lane < w->n; lane++) {
      const int64_t n = tile * kTile + lane;
      const uint8_t* packed = w->packed + tile * tile_bytes(w);
      for (int64_t k = 0; k < w->k; k++) operands[k] = w->operand[code_at(w, packed, k, lane)];
      for (int64_t i = 0; i < t->count; i++) {
        const float value = dot(t, i, tile, lane, operands) + (t->bias ? t->bias[n] : 0);
        const int64_t at = n * plane + i;
        t->y[at] = finish(t->conv, value, t->residual ? t->residual + at : nullptr);
      }
    }
}

void store(const Windows* t, const float* sums, int64_t stride, int64_t first) {
  const int64_t plane = conv_windows(t->conv);
  for (int64_t lane = 0; lane < kTile && first + lane < t->weight->n; lane++) {
    const float bias = t->bias ? t->bias[first + lane] : 0;
    for (int64_t i = 0; i < t->count; i++) {
      const int64_t at = (first + lane) * plane + i;
      t->y[at] = finish(t->conv, sums[i * stride + lane] + bias,
                        t->residual ? t->residual + at : nullptr);
    }
  }
}

// One output pixel of a depthwise convolution.
float window_sum(const Conv* c, const float* x, int64_t oy, int64_t ox, const float* weight) {
  float sum = 0;
  for (int64_t ky = 0; ky < c->kernel[0]; ky++)
    for (int64_t kx = 0; kx < c->kernel[1]; kx++) {
      const int64_t iy = oy * c->stride[0] + ky * c->dilation[0] - c->pad[0];
      const int64_t ix = ox * c->stride[1] + kx * c->dilation[1] - c->pad[1];
      if (iy >= 0 && iy < c->size[0] && ix >= 0 && ix < c->size[1])
        sum += x[iy * c->size[1] + ix] * weight[ky * c->kernel[1] + kx];
    }
  return sum;
}

void depthwise(const Conv* c, int64_t image, int64_t first, int64_t last, uint8_t* scratch) {
  const PackedWeight* w = c->weight;
  float* weight = (float*)scratch;
  const int64_t taps = conv_taps(c), plane = conv_windows(c), pixels = conv_pixels(c);
  for (int64_t n = first; n < last; n++) {
    const int64_t tile = n / kTile, lane = n % kTile, at = tile * kTile + lane;
    const int zero = w->zero_points ? w->zero_points[at] : 0;
    for (int64_t k = 0; k < taps; k++) {
      const int code = code_at(w, w->packed + tile * tile_bytes(w), k, (int)lane);
      weight[k] = (float)(w->operand[code] - w->offset - zero) * scale_at(w, at);
    }
    const int64_t channel = n / (c->outputs / c->channels);
    const float* x = c->x + (image * c->channels + channel) * pixels;
    int64_t to = (image * c->outputs + n) * plane;
    for (int64_t oy = 0; oy < c->out[0]; oy++)
      for (int64_t ox = 0; ox < c->out[1]; ox++, to++)
        c->y[to] = finish(c, window_sum(c, x, oy, ox, weight) + (c->bias ? c->bias[n] : 0),
                          c->residual ? c->residual + to : nullptr);
  }
}

int32_t offset(const PackedWeight* w) { return w->offset; }
int64_t scratch(const PackedWeight* w) { return w->k; }
int64_t depthwise_scratch(const Conv* c) { return conv_taps(c) * 4; }

}  // namespace

const ConvKernels kConvRef = {"ref", offset,    quantize,         scratch, multiply,
                              store, depthwise, depthwise_scratch};

}  // namespace bitfold
