// The common depthwise convolutions, for a vector type V of one ISA: windows of 3x3 and 5x5,
// strides of 1 and 2 along each axis (SY and SX), no dilation.  Inputs are read where they lie;
// lanes beyond the image's borders are masked.
//
// Internal linkage throughout: only translation units built for an ISA include this.
#pragma once

#include "lowbit_conv.h"

namespace bitfold {
namespace {

// One plane of the input and of the output, and the weights [taps][16] at the channel's lane.
struct Plane {
  const Conv* conv;
  const float* x;
  const float* weights;
  float bias;
  float* y;
  const float* residual;  // what is added to y, or null
};

// What is done to sums, in registers: the compiler would read it from the Conv again after each
// store of outputs.
template <class V>
struct Finish {
  typename V::Vector least, most;
  bool has_tail;

  explicit Finish(const Conv* c)
      : least(V::set(c->least)), most(V::set(c->most)), has_tail(conv_has_tail(c)) {}

  // Write sums of one row of outputs, which starts at `row` of the plane's y, from column `ox` on.
  inline __attribute__((always_inline)) void write(const Conv* c, typename V::Vector v, float* y,
                                                   const float* residual, int64_t row,
                                                   int64_t ox) const {
    v = V::clamp(v, least, most);
    if (has_tail) {
      if (c->hardswish) {
        const auto gate = V::fma(v, V::set(1.0f / 6), V::set(0.5f));
        v = V::fma(v, V::clamp(gate, V::set(0), V::set(1)), V::set(0));
      }
      v = V::fma(v, V::set(c->scale), V::set(c->shift));
    }
    if (residual) v = V::fma(V::load_within(residual + row, ox, c->out[1]), V::set(1), v);
    V::store_part(y + row + ox, v, c->out[1] - ox);
  }
};

// The inputs of one row under K taps of V::kLanes windows, S apart: the first tap of the first
// window is at column `from` of `row`.
template <class V, int K, int S, bool MASKED>
struct RowInputs {
  typedef typename V::Vector Vector;
  // With stride 1 a vector for each tap; with 2, the halves of each pair of taps.
  static constexpr int kMasks = S == 1 ? K : K + 1;
  typename V::Mask masks[kMasks];
  int64_t from;

  static constexpr int64_t offset_of(int i) {
    return S == 1 ? i : i / 2 * 2 + i % 2 * V::kLanes;
  }

  inline __attribute__((always_inline)) RowInputs(int64_t from, int64_t width) : from(from) {
    if (!MASKED) return;
    // Which of the 64 columns from `from` on are inside of the image.
    uint64_t inside = ~(uint64_t)0;
    if (from < 0) inside = from > -64 ? inside << -from : 0;
    const int64_t left = width - from;
    if (left < 64) inside &= left > 0 ? ((uint64_t)1 << left) - 1 : 0;
#pragma GCC unroll 8
    for (int i = 0; i < kMasks; i++) masks[i] = V::mask_of((uint32_t)(inside >> offset_of(i)));
  }

  inline __attribute__((always_inline)) Vector part(const float* row, int i) const {
    const float* at = row + from + offset_of(i);
    return MASKED ? V::load_masked(at, masks[i]) : V::load(at);
  }

  inline __attribute__((always_inline)) void read(const float* row, Vector (&v)[K]) const {
    if (S == 1) {
#pragma GCC unroll 8
      for (int kx = 0; kx < K; kx++) v[kx] = part(row, kx);
    } else {
#pragma GCC unroll 8
      for (int kx = 0; kx < K; kx += 2) {
        const Vector a = part(row, kx), b = part(row, kx + 1);
        v[kx] = V::even(a, b);
        if (kx + 1 < K) v[kx + 1] = V::odd(a, b);
      }
    }
  }
};

// RB rows of V::kLanes outputs at (oy, ox): an input vector serves every row that it is under.
template <class V, int K, int SY, int SX, int RB, bool MASKED>
inline __attribute__((always_inline)) void square_block(
    const Plane* p, const typename V::Vector (&weight)[K][K], const Finish<V>& finish, int64_t oy,
    int64_t ox) {
  typedef typename V::Vector Vector;
  const Conv* c = p->conv;
  const RowInputs<V, K, SX, MASKED> inputs(ox * SX - c->pad[1], c->size[1]);
  Vector acc[RB];
#pragma GCC unroll 8
  for (int r = 0; r < RB; r++) acc[r] = V::set(p->bias);
#pragma GCC unroll 32
  for (int i = 0; i < (RB - 1) * SY + K; i++) {
    const int64_t iy = oy * SY + i - c->pad[0];
    if (iy < 0 || iy >= c->size[0]) continue;
    Vector v[K];
    inputs.read(p->x + iy * c->size[1], v);
#pragma GCC unroll 8
    for (int r = 0; r < RB; r++) {
      const int ky = i - r * SY;
      if (ky < 0 || ky >= K) continue;
#pragma GCC unroll 8
      for (int kx = 0; kx < K; kx++) acc[r] = V::fma(v[kx], weight[ky][kx], acc[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < RB; r++)
    finish.write(c, acc[r], p->y, p->residual, (oy + r) * c->out[1], ox);
}

template <class V, int K, int SY, int SX, int RB>
inline __attribute__((always_inline)) void square_rows(
    const Plane* p, const typename V::Vector (&weight)[K][K], const Finish<V>& finish,
    int64_t oy) {
  const Conv* c = p->conv;
  // Columns that a block reads, from the first on.
  constexpr int64_t kReach = SX == 1 ? V::kLanes + K - 1 : 2 * V::kLanes + K - 1;
  for (int64_t ox = 0; ox < c->out[1]; ox += V::kLanes) {
    const int64_t from = ox * SX - c->pad[1];
    if (from >= 0 && from + kReach <= c->size[1]) {
      square_block<V, K, SY, SX, RB, false>(p, weight, finish, oy, ox);
    } else {
      square_block<V, K, SY, SX, RB, true>(p, weight, finish, oy, ox);
    }
  }
}

template <class V, int K, int SY, int SX>
void square_plane(const Plane* p) {
  typename V::Vector weight[K][K];
#pragma GCC unroll 8
  for (int ky = 0; ky < K; ky++)
#pragma GCC unroll 8
    for (int kx = 0; kx < K; kx++) weight[ky][kx] = V::set(p->weights[(ky * K + kx) * kTile]);
  const Finish<V> finish(p->conv);
  const int64_t rows = p->conv->out[0];
  int64_t oy = 0;
  // Seven sums at a time hide the latency of adding to one; images are often 7 * 2^n high.  With a
  // stride of 2 a row of inputs serves half as many, and seven rows of outputs cost more than that.
  constexpr int kMost = SY * SX == 1 ? 7 : 4;
  for (; oy + kMost <= rows; oy += kMost) square_rows<V, K, SY, SX, kMost>(p, weight, finish, oy);
  for (; oy + 4 <= rows; oy += 4) square_rows<V, K, SY, SX, 4>(p, weight, finish, oy);
  if (rows - oy == 3) return square_rows<V, K, SY, SX, 3>(p, weight, finish, oy);
  if (rows - oy == 2) return square_rows<V, K, SY, SX, 2>(p, weight, finish, oy);
  if (rows - oy == 1) return square_rows<V, K, SY, SX, 1>(p, weight, finish, oy);
}

typedef void (*PlaneKernel)(const Plane*);

template <class V, int K>
constexpr PlaneKernel kSquare[2][2] = {{square_plane<V, K, 1, 1>, square_plane<V, K, 1, 2>},
                                       {square_plane<V, K, 2, 1>, square_plane<V, K, 2, 2>}};

// The kernel for a convolution, or null where it is not one of these.
template <class V>
PlaneKernel square_kernel(const Conv* c) {
  const int64_t k = c->kernel[0];
  if (c->kernel[1] != k || (k != 3 && k != 5) || c->stride[0] > 2 || c->stride[1] > 2)
    return nullptr;
  if (c->dilation[0] != 1 || c->dilation[1] != 1) return nullptr;
  return (k == 3 ? kSquare<V, 3> : kSquare<V, 5>)[c->stride[0] - 1][c->stride[1] - 1];
}

}  // namespace
}  // namespace bitfold
