// Bit-plane products: activations of one to four bits times weights of few bits.
//
// With codes c = sum of 2^i w_i and levels `base + step * c`, and activations in two's complement,
// q = sum of 2^j a_j - 2^m a_(m-1) over their m bits, a group's product is
//
//   sum of level * q = base * sum of q + step * sum over i, j of +-2^(i+j) popcount(w_i & a_j)
//
// Activations of one bit are +1 (bit 1) or -1: w_i * q sums up to (sum of q + count) / 2 -
// popcount(w_i ^ a), so that each plane of the weight takes one product of the two.  Padding would
// count, so K must be whole chunks then.
//
// The weight's bytes are those that the other kernels read.  A lane's 32-bit word holds the plane
// of 32 input channels once the fields of its lines are put together; which bit is which channel
// is `channel_of_bit`, and activations are prepared in that order:
//
//   planes uint32 [C][act_bits][rows]   in the place of `q` in a Block
//
// Integer sums are exact, and what follows them is done as by the int8 kernels.
#pragma once

#include "lowbit_matmul.h"

namespace bitfold {

// The channel, of a chunk's 32, whose code's bits are bits `bit` of the words of its planes.
static inline int channel_of_bit(int32_t weight_bits, int bit) {
  const int byte = bit / 8, at = bit % 8;
  if (weight_bits == 1) return 4 * at + byte;
  if (weight_bits == 4) return 8 * (at % 4) + 4 * (at / 4) + byte;
  if (weight_bits == 3) return 4 * (at < 6 ? at % 3 * 2 + at / 3 : 13 - at) + byte;
  return 16 * (at % 2) + 4 * (at / 2) + byte;
}

// What a code's integer grows by from one to the next; 0 where it is not always the same.
static inline int32_t step_of(const PackedWeight* w) {
  const int32_t step = w->operand[1] - w->operand[0];
  for (int c = 2; c < 1 << w->bits; c++)
    if (w->operand[c] - w->operand[c - 1] != step) return 0;
  return step;
}

// What code 0 stands for.
static inline int32_t base_of(const PackedWeight* w) { return w->operand[0] - w->offset; }

// A group's sums start here: what a product of planes leaves out.
static inline int32_t start_of(const MatMul* op, int32_t sum, int64_t count) {
  const PackedWeight* w = op->weight;
  int32_t start = base_of(w) * sum;
  if (op->act_bits == 1)
    start += step_of(w) * ((1 << w->bits) - 1) * ((sum + (int32_t)count) / 2);
  return start;
}

// What the popcount of weight plane i and activation plane j is multiplied by.
static inline int32_t factor_of(const MatMul* op, int i, int j) {
  const int32_t factor = step_of(op->weight) * (1 << (i + j));
  return j == op->act_bits - 1 ? -factor : factor;  // of one bit, too: it counts differing bits
}

static inline int64_t group_count(const PackedWeight* w, int32_t group) {
  const int64_t left = w->k - (int64_t)group * w->group_size;
  return w->group_size < left ? w->group_size : left;
}

struct PlaneKernels {
  MatMulKernels matmul;
  int32_t most_products;  // of planes, up to which they are faster than int8 products
};

extern const PlaneKernels kPlanesRef;
#if defined(BITFOLD_X86)
extern const PlaneKernels kPlanesAvx2;
extern const PlaneKernels kPlanesAvx512;
extern const PlaneKernels kPlanesBitalg;
#endif

// What runs a multiplication: `planes`, or `bytes` where these are faster or planes do not fit
// (levels that are not evenly spaced, groups within a chunk).
MatMulKernels kernels_for(const MatMulKernels* bytes, const PlaneKernels* planes,
                          const MatMul* op);

// The mean of |x|.
float mean_magnitude(const float* x, int64_t count);

// One-bit activations as int8 [Kpad / 4][rows], for the kernels that multiply bytes.
void binarize(const MatMul* op, int32_t block, const float* x);

}  // namespace bitfold
