// The base matrix of order 12, which widths of 3 * 2^n have, in 42 additions and 12 doublings
// beside its scale; with pairs of inputs added up beforehand it would take 84 additions.
//
// It is Paley's.  Williamson's array of 3 x 3 blocks, A of ones and B = A - 2 I,
//
//    A  B  B  B
//   -B  A -B  B
//   -B  B  A -B
//   -B -B  B  A
//
// is the same but for the order and the signs of inputs and outputs, and B x is the sum of x, which
// all its outputs share, less 2 x.
//
// Williamson, "Hadamard's determinant theorem and the sum of four squares", Duke Mathematical
// Journal 11 (1944).
//
// Internal linkage throughout; an ISA's file defines Vec before it includes this.
#pragma once

#include <string.h>

#include "hadamard.h"

namespace bitfold {
namespace {

// Input i of Paley's matrix is input kInput[i] of the array, and output j its output kOutput[j],
// with minus where kMinusIn[i], or kMinusOut[j], says so.
constexpr int kInput[12] = {3, 0, 4, 7, 6, 8, 9, 2, 5, 10, 1, 11};
constexpr int kOutput[12] = {0, 11, 8, 10, 5, 7, 6, 1, 3, 2, 4, 9};
constexpr bool kMinusIn[12] = {0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0};
constexpr bool kMinusOut[12] = {1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0};

// Whether entry (i, j) of Paley's first matrix of order 12 is -1.
constexpr bool paley_minus(int i, int j) {
  if (i == 0 || i == j) return false;
  if (j == 0) return true;
  for (int root = 1; root < 11; root++)
    if (root * root % 11 == (i - j + 11) % 11) return false;
  return true;
}

// Whether the array has -1 for output j and input i.
constexpr bool array_minus(int j, int i) {
  constexpr bool kMinus[4][4] = {{0, 0, 0, 0}, {1, 0, 1, 0}, {1, 0, 0, 1}, {1, 1, 0, 0}};
  const bool other = j / 3 != i / 3 && j % 3 == i % 3;
  return kMinus[j / 3][i / 3] != other;
}

constexpr bool are_alike() {
  for (int i = 0; i < 12; i++)
    for (int j = 0; j < 12; j++) {
      const bool turned = kMinusIn[i] != kMinusOut[j];
      if (paley_minus(i, j) != (array_minus(kOutput[j], kInput[i]) != turned)) return false;
    }
  return true;
}
static_assert(are_alike(), "the array is Paley's matrix");

// The entries of `signs` for it.
struct Twelve {
  uint16_t signs[36];
  constexpr Twelve() : signs() {
    for (int i = 0; i < 12; i++)
      for (int j = 0; j < 12; j++) {
        const int at = j * 3 + i / 4, bit = paley_minus(i, j) ? 1 << i % 4 : 0;
        signs[at] = (uint16_t)((signs[at] & 15) | bit | i / 4 * 16);
      }
  }
};
constexpr Twelve kTwelve{};

inline bool is_twelve(const Hadamard* h) {
  return h->base == 12 && !memcmp(h->signs, kTwelve.signs, sizeof kTwelve.signs);
}

// y[12][run], in place, times the matrix and `factor`.
inline void times_twelve(float* y, int64_t run, float factor) {
  const Vec::T zero = Vec::all(0), minus_two = Vec::all(-2);
  const Vec::T scale[2] = {Vec::all(factor), Vec::all(-factor)};
  for (int64_t column = 0; column < run; column += Vec::kLanes, y += Vec::kLanes) {
    Vec::T x[12], sum[4], other[12];
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      const Vec::T in = Vec::load(y + i * run);
      x[kInput[i]] = kMinusIn[i] ? Vec::sub(zero, in) : in;
    }
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++) sum[b] = Vec::add(Vec::add(x[3 * b], x[3 * b + 1]), x[3 * b + 2]);
    const Vec::T even = Vec::add(sum[0], sum[2]), odd = Vec::add(sum[1], sum[3]);
    const Vec::T left = Vec::sub(sum[2], sum[0]), right = Vec::sub(sum[1], sum[3]);
    const Vec::T all[4] = {Vec::add(odd, even), Vec::sub(odd, even), Vec::add(right, left),
                           Vec::sub(left, right)};
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
      const Vec::T a = x[i], b = x[3 + i], c = x[6 + i], d = x[9 + i];
      other[i] = Vec::add(Vec::add(b, c), d);
      other[3 + i] = Vec::sub(d, Vec::add(a, c));
      other[6 + i] = Vec::sub(b, Vec::add(a, d));
      other[9 + i] = Vec::sub(c, Vec::add(a, b));
    }
#pragma GCC unroll 12
    for (int j = 0; j < 12; j++) {
      const int from = kOutput[j];
      const Vec::T out = Vec::multiply_add(other[from], minus_two, all[from / 3]);
      Vec::store(y + j * run, Vec::mul(out, scale[kMinusOut[j]]));
    }
  }
}

}  // namespace
}  // namespace bitfold
