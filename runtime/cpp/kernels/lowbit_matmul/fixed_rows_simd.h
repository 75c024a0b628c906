// Rows of floats as fixed point, for integer products: three rows of int8 for each.
//
// A group's inputs become integers n = round(x / s) of 24 bits, s a power of two, and these three
// balanced digits to the base 256: bytes in rows whose scales are 2**16 s, 2**8 s and s.  Their
// products are exact, and weights are unpacked once for all three, which takes far less time than
// to make a float of every weight.
//
// What is lost is s / 2 <= 2**-23 of the largest magnitude in the group, for each input: about what
// float32 keeps of the largest one, while small ones beside it lose their low bits.  In a sum over
// n inputs that comes to sqrt(n / 12) s.  Float32 sums, whose partial sums of some sqrt(n) inputs'
// size are rounded n times, err as much where the inputs are of one size; where a few are a
// thousand times larger than the others, half as much.
//
// V is a type of one ISA that has kLanes, Sums (of digits), none (no sums), reach (the bits of the
// largest magnitude of a run of inputs), write (the digits of up to kLanes inputs, into three of a
// block's rows; counts them in) and total (the three sums).  Internal linkage throughout.
#pragma once

#include <string.h>

#include "broken_row.h"

namespace bitfold {
namespace {

constexpr int kFloatDigits = 3;
constexpr int32_t kInfinityBits = 0x7f800000;

// The exponent field of s: the least that keeps n within three digits, 127 (2**16 + 2**8 + 1).
// That is 2**22 times 1.992..., so that a larger mantissa takes the next power.
inline int32_t unit_field(int32_t reach) {
  const int32_t field = (int32_t)(((uint32_t)reach + 0x10101) >> 23) - 22;
  return field < 1 ? 1 : field;
}

inline float power_of_field(int32_t field) {
  const int32_t bits = field << 23;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Three rows of a block, from `at` on, for one of X.
template <class V>
void write_fixed_row(const MatMul* op, const Block* b, int32_t at, const float* x) {
  const PackedWeight* w = op->weight;
  const int64_t rows = b->rows;
  int32_t furthest = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    const int64_t k0 = (int64_t)g * w->group_size, left = w->k - k0;
    const int64_t count = w->group_size < left ? w->group_size : left;
    const int32_t reach = V::reach(x + k0, count), field = unit_field(reach);
    furthest = furthest > reach ? furthest : reach;
    typename V::Sums sums = V::none();
    for (int64_t i = 0; i < count; i += V::kLanes)
      V::write(x + k0 + i, count - i, power_of_field(254 - field),
               b->q + (k0 + i) / 4 * rows + at, rows, sums);
    int32_t sum[kFloatDigits];
    V::total(sums, sum);
    for (int j = 0; j < kFloatDigits; j++) {
      const int64_t place = g * rows + at + j;
      b->scale[place] = power_of_field(field + 8 * (kFloatDigits - 1 - j));
      b->start[place] = -op->offset * sum[j];
      b->sum[place] = (float)sum[j];
    }
  }
  // What fills the last chunk.
  for (int64_t i = round_up(w->k, V::kLanes) / 4; i < padded_k(w) / 4; i++)
    for (int j = 0; j < kFloatDigits; j++) b->q[i * rows + at + j] = 0;
  for (int j = 0; j < kFloatDigits && furthest >= kInfinityBits; j++) poison(w, b, at + j);
}

template <class V>
void write_fixed_rows(const MatMul* op, int32_t index, const float* x) {
  const Block b = block_at(op, index);
  for (int32_t at = 0; at < b.rows; at += kFloatDigits, x += op->weight->k)
    write_fixed_row<V>(op, &b, at, x);
}

}  // namespace
}  // namespace bitfold
