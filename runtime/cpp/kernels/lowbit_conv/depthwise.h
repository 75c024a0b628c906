// Depthwise convolution in float, for a vector type V of one ISA: any window.
//
// But for the windows of depthwise_square.h an image plane goes over the kernel in bands of at most
// kBandRows x kBandColumns outputs.  The input under a band is copied with its padding, and every
// stride-th column apart, so that each tap of neighbouring outputs is one contiguous vector,
// whatever the stride, the dilation and the borders:
//
//   band  float [rows][stride][pitch]   padded column j * stride + phase at [phase][j]
//
// Internal linkage throughout: only translation units built for an ISA include this.
#pragma once

#include <string.h>

#include "depthwise_square.h"

namespace bitfold {
namespace {

constexpr int64_t kBandRows = 16, kBandColumns = 256;

struct Band {
  int64_t rows, columns;  // outputs
  int64_t pitch, row;     // floats of a phase and of an input row
  int64_t inputs;         // input rows
};

inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

inline Band band_of(const Conv* c, int64_t rows, int64_t columns, int64_t lanes) {
  Band b;
  b.rows = rows;
  b.columns = columns;
  const int64_t reach = (c->kernel[1] - 1) * c->dilation[1] / c->stride[1];
  b.pitch = round_up(round_up(columns, lanes) + reach, lanes) + lanes;
  b.row = b.pitch * c->stride[1];
  b.inputs = (rows - 1) * c->stride[0] + (c->kernel[0] - 1) * c->dilation[0] + 1;
  return b;
}

inline Band largest_band(const Conv* c, int64_t lanes) {
  return band_of(c, at_most(c->out[0], kBandRows), at_most(c->out[1], kBandColumns), lanes);
}

// Scratch: the weights of a tile [taps][16], their places in a band [taps], the tile's operand
// bytes, a band.
struct DepthwiseScratch {
  float* weights;
  int64_t* places;
  uint8_t* operands;
  float* band;
  int64_t bytes;

  DepthwiseScratch(const Conv* c, uint8_t* at, int64_t lanes) {
    const int64_t taps = conv_taps(c);
    const Band b = largest_band(c, lanes);
    weights = (float*)at;
    places = (int64_t*)(at + taps * kTile * 4);
    operands = (uint8_t*)places + round_up(taps * 8, 64);
    band = (float*)(operands + padded_k(c->weight) * kTile);
    bytes = (uint8_t*)band - at + b.inputs * b.row * 4;
  }
};

inline int64_t depthwise_bytes(const Conv* c, int64_t lanes) {
  return DepthwiseScratch(c, nullptr, lanes).bytes;
}

// Copy one input row; `x` is the row's first column, or null outside of the image, and `from`
// the image column at the band's first padded one.
template <class V>
void copy_row(const Conv* c, const Band* b, const float* x, int64_t from, float* to) {
  const int64_t stride = c->stride[1], width = x ? c->size[1] : 0;
  const int64_t wanted = b->pitch - V::kLanes;  // what is behind is never read
  if (stride == 1) {
    for (int64_t j = 0; j < wanted; j += V::kLanes)
      V::store(to + j, V::load_within(x, from + j, width));
  } else if (stride == 2) {
    for (int64_t j = 0; j < wanted; j += V::kLanes, from += 2 * V::kLanes) {
      const auto low = V::load_within(x, from, width);
      const auto high = V::load_within(x, from + V::kLanes, width);
      V::store(to + j, V::even(low, high));
      V::store(to + b->pitch + j, V::odd(low, high));
    }
  } else {
    for (int64_t phase = 0; phase < stride; phase++)
      for (int64_t j = 0; j < wanted; j++) {
        const int64_t column = from + j * stride + phase;
        to[phase * b->pitch + j] = column >= 0 && column < width ? x[column] : 0;
      }
  }
}

// What one call of `any_row` computes: a row of outputs from a band.
struct Strip {
  const Conv* conv;
  const Band* band;
  const float* input;      // the band at the row
  const float* weights;    // [taps][16], at the channel's lane
  const int64_t* places;   // [taps]
  float bias;
  float* y;                // of the plane
  const float* residual;   // what is added to y, or null
  int64_t row, column;     // where the row is in the plane, its first output's column
};

template <class V>
void any_row(const Strip* s) {
  typedef typename V::Vector Vector;
  const int64_t taps = conv_taps(s->conv);
  const Finish<V> finish(s->conv);
  for (int64_t x = 0; x < s->band->columns; x += V::kLanes) {
    Vector acc = V::set(s->bias);
    for (int64_t tap = 0; tap < taps; tap++)
      acc = V::fma(V::load(s->input + s->places[tap] + x), V::set(s->weights[tap * kTile]), acc);
    finish.write(s->conv, acc, s->y, s->residual, s->row, s->column + x);
  }
}

// Where the taps of a band's first window lie in it: [taps].
inline void find_places(const Conv* c, const Band* b, int64_t* places) {
  for (int64_t ky = 0; ky < c->kernel[0]; ky++)
    for (int64_t kx = 0; kx < c->kernel[1]; kx++) {
      const int64_t at = kx * c->dilation[1];
      *places++ = ky * c->dilation[0] * b->row + at % c->stride[1] * b->pitch + at / c->stride[1];
    }
}

// The band of outputs whose first is at (row, column).
template <class V>
void convolve_band(const Strip* whole, const float* x, int64_t row, int64_t column,
                   float* band) {
  const Conv* c = whole->conv;
  const Band* b = whole->band;
  for (int64_t i = 0; i < b->inputs; i++) {
    const int64_t from = row * c->stride[0] + i - c->pad[0];
    const bool inside = from >= 0 && from < c->size[0];
    copy_row<V>(c, b, inside ? x + from * c->size[1] : nullptr,
                column * c->stride[1] - c->pad[1], band + i * b->row);
  }
  Strip strip = *whole;
  strip.row = row * c->out[1];
  strip.column = column;
  for (int64_t r = 0; r < b->rows; r++, strip.row += c->out[1]) {
    strip.input = band + r * c->stride[0] * b->row;
    any_row<V>(&strip);
  }
}

// One plane, band by band.
template <class V>
void convolve_plane(const Plane* p, const DepthwiseScratch* scratch) {
  const Conv* c = p->conv;
  const Band most = largest_band(c, V::kLanes);
  Band b = {};
  for (int64_t column = 0; column < c->out[1]; column += most.columns)
    for (int64_t row = 0; row < c->out[0]; row += most.rows) {
      const int64_t rows = at_most(most.rows, c->out[0] - row);
      const int64_t columns = at_most(most.columns, c->out[1] - column);
      if (rows != b.rows || columns != b.columns) {
        b = band_of(c, rows, columns, V::kLanes);
        find_places(c, &b, scratch->places);
      }
      const Strip strip = {c,       &b,   nullptr,     p->weights, scratch->places,
                           p->bias, p->y, p->residual, 0,          0};
      convolve_band<V>(&strip, p->x, row, column, scratch->band);
    }
}

// Outputs [first, last) of one image.  `decode_weights(tile, operands, weights)` gives the float
// weights [taps][16] of a tile.
template <class V, class DecodeWeights>
void convolve_depthwise(const Conv* c, int64_t image, int64_t first, int64_t last, uint8_t* memory,
                        DecodeWeights decode_weights) {
  const DepthwiseScratch scratch(c, memory, V::kLanes);
  const PlaneKernel square = square_kernel<V>(c);
  const int64_t each = c->outputs / c->channels;
  int64_t ready = -1;
  for (int64_t n = first; n < last; n++) {
    if (n / kTile != ready) {
      ready = n / kTile;
      decode_weights((int32_t)ready, scratch.operands, scratch.weights);
    }
    const int64_t channel = image * c->channels + n / each;
    const int64_t to = (image * c->outputs + n) * conv_windows(c);
    const Plane plane = {c, c->x + channel * conv_pixels(c),
                         scratch.weights + n % kTile, c->bias ? c->bias[n] : 0, c->y + to,
                         c->residual ? c->residual + to : nullptr};
    if (square) {
      square(&plane);
    } else {
      convolve_plane<V>(&plane, &scratch);
    }
  }
}

}  // namespace
}  // namespace bitfold
