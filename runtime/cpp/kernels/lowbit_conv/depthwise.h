// Depthwise convolution in float, for a vector type V of one ISA.
//
// An image plane goes over the kernel in bands of at most kBandRows x kBandColumns outputs.  The
// input under a band is copied with its padding, and every stride-th column apart, so that each
// tap of neighbouring outputs is one contiguous vector, whatever the stride, the dilation and the
// borders:
//
//   band  float [rows][stride][pitch]   padded column j * stride + phase at [phase][j]
//
// Internal linkage throughout: only translation units built for an ISA include this.
#pragma once

#include <string.h>

#include "lowbit_conv.h"

namespace bitfold {
namespace {

constexpr int64_t kBandRows = 16, kBandColumns = 256;

struct Band {
  int64_t rows, columns;        // outputs
  int64_t pitch, row;           // floats of a phase and of an input row
  int64_t inputs;               // input rows
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
  const int64_t width = c->size[1], stride = c->stride[1];
  const int64_t wanted = b->pitch - V::kLanes;  // what is behind is never read
  if (x == nullptr) {
    memset(to, 0, b->row * 4);
  } else if (stride == 1) {
    const int64_t left = at_most(from < 0 ? -from : 0, wanted);
    int64_t inside = at_most(width - from, wanted) - left;
    if (inside < 0) inside = 0;
    memset(to, 0, left * 4);
    if (inside) memcpy(to + left, x + from + left, inside * 4);
    memset(to + left + inside, 0, (wanted - left - inside) * 4);
  } else {
    int64_t j = 0;
    for (; stride == 2 && j < wanted; j += V::kLanes) {
      const int64_t at = from + 2 * j;
      if (at < 0) {  // the first vector, where there is padding
        for (int64_t i = 0; i < V::kLanes; i++)
          for (int64_t phase = 0; phase < 2; phase++) {
            const int64_t column = at + 2 * i + phase;
            to[phase * b->pitch + j + i] = column >= 0 && column < width ? x[column] : 0;
          }
      } else {
        const int64_t left = width - at;
        V::split(V::load_part(x + at, left), V::load_part(x + at + V::kLanes, left - V::kLanes),
                 to + j, to + b->pitch + j);
      }
    }
    for (; j < wanted; j++)
      for (int64_t phase = 0; phase < stride; phase++) {
        const int64_t column = from + j * stride + phase;
        to[phase * b->pitch + j] = column >= 0 && column < width ? x[column] : 0;
      }
  }
}

// What one call of a kernel computes: rows of outputs from a band.
struct Strip {
  const Conv* conv;
  const Band* band;
  const float* input;      // the band at the first row
  const float* weights;    // [taps][16], at the channel's lane
  const int64_t* places;   // [taps]
  float bias;
  float* y;
};

// RB rows of outputs for a window of KH x KW whose rows are not dilated, SH input rows apart: an
// input vector serves every row that it is under.
template <class V, int KH, int KW, int SH, int RB>
void rows_of(const Strip* s) {
  typedef typename V::Vector Vector;
  const Band* b = s->band;
  const Vector bias = V::set(s->bias), least = V::set(s->conv->least), most = V::set(s->conv->most);
  Vector weight[KH][KW];
#pragma GCC unroll 8
  for (int ky = 0; ky < KH; ky++)
#pragma GCC unroll 8
    for (int kx = 0; kx < KW; kx++) weight[ky][kx] = V::set(s->weights[(ky * KW + kx) * kTile]);
  for (int64_t x = 0; x < b->columns; x += V::kLanes) {
    Vector acc[RB];
#pragma GCC unroll 8
    for (int r = 0; r < RB; r++) acc[r] = bias;
#pragma GCC unroll 16
    for (int i = 0; i < (RB - 1) * SH + KH; i++)
#pragma GCC unroll 8
      for (int kx = 0; kx < KW; kx++) {
        const Vector v = V::load(s->input + i * b->row + s->places[kx] + x);
#pragma GCC unroll 8
        for (int r = 0; r < RB; r++) {
          const int ky = i - r * SH;
          if (ky >= 0 && ky < KH) acc[r] = V::fma(v, weight[ky][kx], acc[r]);
        }
      }
#pragma GCC unroll 8
    for (int r = 0; r < RB; r++)
      V::store_part(s->y + r * s->conv->out[1] + x, V::clamp(acc[r], least, most), b->columns - x);
  }
}

// One row of outputs for any window.
template <class V>
void any_row(const Strip* s) {
  typedef typename V::Vector Vector;
  const int64_t taps = conv_taps(s->conv);
  const Vector least = V::set(s->conv->least), most = V::set(s->conv->most);
  for (int64_t x = 0; x < s->band->columns; x += V::kLanes) {
    Vector acc = V::set(s->bias);
    for (int64_t tap = 0; tap < taps; tap++)
      acc = V::fma(V::load(s->input + s->places[tap] + x), V::set(s->weights[tap * kTile]), acc);
    V::store_part(s->y + x, V::clamp(acc, least, most), s->band->columns - x);
  }
}

// Kernels for 4, 2 and 1 rows; the first two may be null.
struct RowKernels {
  void (*four)(const Strip*);
  void (*two)(const Strip*);
  void (*one)(const Strip*);
};

template <class V, int K, int SH>
constexpr RowKernels kSquare = {rows_of<V, K, K, SH, 4>, rows_of<V, K, K, SH, 2>,
                                rows_of<V, K, K, SH, 1>};

template <class V>
RowKernels row_kernels(const Conv* c) {
  const bool square = c->kernel[0] == c->kernel[1] && c->dilation[0] == 1;
  if (square && c->kernel[0] == 3 && c->stride[0] == 1) return kSquare<V, 3, 1>;
  if (square && c->kernel[0] == 3 && c->stride[0] == 2) return kSquare<V, 3, 2>;
  if (square && c->kernel[0] == 5 && c->stride[0] == 1) return kSquare<V, 5, 1>;
  if (square && c->kernel[0] == 5 && c->stride[0] == 2) return kSquare<V, 5, 2>;
  return {nullptr, nullptr, any_row<V>};
}

// The weights of a tile as floats, from its operand bytes [k / 4][16][4].
inline void float_weights(const Conv* c, int32_t tile, const uint8_t* operands, const float* scale,
                          float* weights) {
  const PackedWeight* w = c->weight;
  float zero[kTile];
  for (int lane = 0; lane < kTile; lane++)
    zero[lane] = (float)(w->offset + (w->zero_points ? w->zero_points[tile * kTile + lane] : 0));
  for (int64_t tap = 0; tap < conv_taps(c); tap++, weights += kTile) {
    const uint8_t* from = operands + tap / 4 * kLine + tap % 4;
    for (int lane = 0; lane < kTile; lane++)
      weights[lane] = ((float)from[4 * lane] - zero[lane]) * scale[lane];
  }
}

template <class V>
void convolve_plane(const Conv* c, const float* x, const RowKernels* kernels,
                    const DepthwiseScratch* scratch, int lane, float bias, float* y) {
  const Band whole = largest_band(c, V::kLanes);
  for (int64_t column = 0; column < c->out[1]; column += whole.columns)
    for (int64_t row = 0; row < c->out[0]; row += whole.rows) {
      const Band b = band_of(c, at_most(whole.rows, c->out[0] - row),
                             at_most(whole.columns, c->out[1] - column), V::kLanes);
      for (int64_t ky = 0, tap = 0; ky < c->kernel[0]; ky++)
        for (int64_t kx = 0; kx < c->kernel[1]; kx++, tap++) {
          const int64_t at = kx * c->dilation[1];
          scratch->places[tap] = ky * c->dilation[0] * b.row + at % c->stride[1] * b.pitch +
                                 at / c->stride[1];
        }
      for (int64_t i = 0; i < b.inputs; i++) {
        const int64_t from = row * c->stride[0] + i - c->pad[0];
        const bool inside = from >= 0 && from < c->size[0];
        copy_row<V>(c, &b, inside ? x + from * c->size[1] : nullptr,
                    column * c->stride[1] - c->pad[1], scratch->band + i * b.row);
      }
      Strip strip = {c, &b, nullptr, scratch->weights + lane, scratch->places, bias, nullptr};
      for (int64_t r = 0; r < b.rows;) {
        strip.input = scratch->band + r * c->stride[0] * b.row;
        strip.y = y + (row + r) * c->out[1] + column;
        if (kernels->four && b.rows - r >= 4) {
          kernels->four(&strip), r += 4;
        } else if (kernels->two && b.rows - r >= 2) {
          kernels->two(&strip), r += 2;
        } else {
          kernels->one(&strip), r += 1;
        }
      }
    }
}

// Outputs [first, last) of one image.  `decode_tile(tile, operands, scale)` gives a tile's operand
// bytes and its 16 scales.
template <class V, class DecodeTile>
void convolve_depthwise(const Conv* c, int64_t image, int64_t first, int64_t last, uint8_t* memory,
                        DecodeTile decode_tile) {
  const DepthwiseScratch scratch(c, memory, V::kLanes);
  const RowKernels kernels = row_kernels<V>(c);
  const int64_t each = c->outputs / c->channels;
  int64_t ready = -1;
  for (int64_t n = first; n < last; n++) {
    if (n / kTile != ready) {
      ready = n / kTile;
      float scale[kTile];
      decode_tile((int32_t)ready, scratch.operands, scale);
      float_weights(c, (int32_t)ready, scratch.operands, scale, scratch.weights);
    }
    convolve_plane<V>(c, c->x + (image * c->channels + n / each) * conv_pixels(c), &kernels,
                      &scratch, (int)(n % kTile), c->bias ? c->bias[n] : 0,
                      c->y + (image * c->outputs + n) * conv_windows(c));
  }
}

}  // namespace
}  // namespace bitfold
