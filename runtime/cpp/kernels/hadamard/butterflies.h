// Hadamard transforms on vectors of floats; an ISA's file defines Vec before it includes this.
//
// Vec has kLanes = 2^kLog lanes, and kRadix: the largest number of bits whose 2^kRadix vectors
// fit in registers together.  Internal linkage throughout.
#pragma once

#include "hadamard.h"
#include "order_12.h"

namespace bitfold {
namespace {

// Butterflies of the lanes that differ in the bits [0, BITS).
template <int BITS>
inline __attribute__((always_inline)) Vec::T within(Vec::T v) {
  if (BITS > 0) v = Vec::within<0>(v);
  if (BITS > 1) v = Vec::within<1>(v);
  if (BITS > 2) v = Vec::within<2>(v);
  if (BITS > 3) v = Vec::within<3>(v);
  return v;
}

// Butterflies of 2^R vectors `stride` floats apart, after those within the vectors if LANES, and
// times `scale` if SCALED.
template <int R, bool LANES, bool SCALED>
inline __attribute__((always_inline)) void butterfly(const float* x, float* y, int64_t stride,
                                                     Vec::T scale) {
  Vec::T v[1 << R];
#pragma GCC unroll 16
  for (int i = 0; i < 1 << R; i++) {
    v[i] = Vec::load(x + i * stride);
    if (LANES) v[i] = within<Vec::kLog>(v[i]);
  }
#pragma GCC unroll 4
  for (int half = 1; half < 1 << R; half *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < 1 << R; i++) {
      if (i & half) continue;
      const Vec::T low = v[i], high = v[i + half];
      v[i] = Vec::add(low, high);
      v[i + half] = Vec::sub(low, high);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 1 << R; i++)
    Vec::store(y + i * stride, SCALED ? Vec::mul(v[i], scale) : v[i]);
}

// One pass over `count` floats, a multiple of stride * 2^R: the bits from that of `stride` on.
template <int R, bool LANES, bool SCALED>
void pass(const float* x, float* y, int64_t count, int64_t stride, float factor) {
  const Vec::T scale = Vec::all(factor);
  for (int64_t run = 0; run < count; run += stride << R)
    for (int64_t i = run; i < run + stride; i += Vec::kLanes)
      butterfly<R, LANES, SCALED>(x + i, y + i, stride, scale);
}

typedef void (*Pass)(const float* x, float* y, int64_t count, int64_t stride, float factor);

// [R][SCALED]; R up to kRadix.
template <bool LANES>
inline Pass pass_of(int r, bool scaled) {
  static const Pass kPasses[5][2] = {
      {pass<0, LANES, false>, pass<0, LANES, true>},
      {pass<1, LANES, false>, pass<1, LANES, true>},
      {pass<2, LANES, false>, pass<2, LANES, true>},
      {pass<3, LANES, false>, pass<3, LANES, true>},
      {pass<Vec::kRadix, LANES, false>, pass<Vec::kRadix, LANES, true>}};
  return kPasses[r][scaled];
}

// Runs shorter than a vector: several of them lie in each.
template <int BITS>
void short_runs(const float* x, float* y, int64_t count, float factor) {
  const Vec::T scale = Vec::all(factor);
  int64_t i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes)
    Vec::store(y + i, Vec::mul(within<BITS>(Vec::load(x + i)), scale));
  if (i < count)
    Vec::store_part(y + i, Vec::mul(within<BITS>(Vec::load_part(x + i, count - i)), scale),
                    count - i);
}

// Every run of 2^bits floats times Sylvester's matrix and `factor`.
inline void sylvester(const float* x, float* y, int64_t count, int bits, float factor) {
  if (bits < Vec::kLog) {
    if (bits == 0) return short_runs<0>(x, y, count, factor);
    if (bits == 1) return short_runs<1>(x, y, count, factor);
    if (bits == 2) return short_runs<2>(x, y, count, factor);
    return short_runs<3>(x, y, count, factor);
  }
  const bool scaled = factor != 1;
  int done = Vec::kLog, r = bits - done < Vec::kRadix ? bits - done : Vec::kRadix;
  pass_of<true>(r, scaled && done + r == bits)(x, y, count, Vec::kLanes, factor);
  for (done += r; done < bits; done += r) {
    r = bits - done < Vec::kRadix ? bits - done : Vec::kRadix;
    pass_of<false>(r, scaled && done + r == bits)(y, y, count, (int64_t)1 << done, factor);
  }
}

// The 16 sums of four vectors with all signs: entry p has minus where its bits are set.
inline void signed_sums(Vec::T a, Vec::T b, Vec::T c, Vec::T d, float* sums) {
  const Vec::T ab[2] = {Vec::add(a, b), Vec::sub(a, b)};
  const Vec::T cd[2] = {Vec::add(c, d), Vec::sub(c, d)};
  const Vec::T zero = Vec::all(0);
#pragma GCC unroll 8
  for (int p = 0; p < 8; p++) {
    // Bits 0, 1, 2 of p: the signs of b, c and d beside a plus for a.
    const bool minus_c = p & 2, minus_d = p & 4;
    const Vec::T other = cd[minus_c != minus_d];
    const Vec::T sum = minus_c ? Vec::sub(ab[p & 1], other) : Vec::add(ab[p & 1], other);
    Vec::store(sums + 2 * p * Vec::kLanes, sum);
    Vec::store(sums + (15 - 2 * p) * Vec::kLanes, Vec::sub(zero, sum));
  }
}

// Sums over the m rows of a block [m][run] with the base's signs, a vector of columns at a time.
template <bool WHOLE>
void times_base(const Hadamard* h, float* y, int64_t left, int64_t run, float* sums) {
  const int32_t fours = h->base / 4;
  const Vec::T scale = Vec::all(h->scale);
  for (int32_t g = 0; g < fours; g++) {
    Vec::T v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const float* from = y + (4 * g + i) * run;
      v[i] = WHOLE ? Vec::load(from) : Vec::load_part(from, left);
    }
    signed_sums(v[0], v[1], v[2], v[3], sums + g * 16 * Vec::kLanes);
  }
  const uint16_t* signs = h->signs;
  for (int32_t j = 0; j < h->base; j++, signs += fours) {
    Vec::T even = Vec::load(sums + signs[0] * Vec::kLanes), odd = Vec::all(0);
    int32_t g = 1;
    for (; g + 2 <= fours; g += 2) {
      odd = Vec::add(odd, Vec::load(sums + signs[g] * Vec::kLanes));
      even = Vec::add(even, Vec::load(sums + signs[g + 1] * Vec::kLanes));
    }
    if (g < fours) odd = Vec::add(odd, Vec::load(sums + signs[g] * Vec::kLanes));
    const Vec::T sum = Vec::mul(Vec::add(even, odd), scale);
    if (WHOLE) {
      Vec::store(y + j * run, sum);
    } else {
      Vec::store_part(y + j * run, sum, left);
    }
  }
}

inline void hadamard_blocks(const Hadamard* h, const float* x, float* y, int64_t blocks,
                            float* scratch) {
  const int64_t run = (int64_t)1 << h->bits;
  sylvester(x, y, blocks * h->size, h->bits, h->base == 1 ? h->scale : 1);
  if (h->base == 1) return;
  const bool twelve = run >= Vec::kLanes && is_twelve(h);
  for (int64_t b = 0; b < blocks; b++, y += h->size) {
    if (twelve) {
      times_twelve(y, run, h->scale);
      continue;
    }
    int64_t column = 0;
    for (; column + Vec::kLanes <= run; column += Vec::kLanes)
      times_base<true>(h, y + column, Vec::kLanes, run, scratch);
    if (column < run) times_base<false>(h, y + column, run - column, run, scratch);
  }
}

}  // namespace
}  // namespace bitfold
