// What the scalar kernels share: the epilogue of one output.
#pragma once

#include <math.h>

#include "gelu.h"
#include "lowbit_matmul.h"

namespace bitfold {

static inline float activated(Activation activation, float value, float up) {
  switch (activation) {
    case kIdentity:
      return value;
    case kSwiGlu:
      return value / (1 + expf(-value)) * up;
    case kRelu:
      return value < 0 ? 0 : value;  // a NaN stays
    case kGelu:
      return value * 0.5f * erfcf(value * -0x1.6a09e6p-1f);
    case kGeluTanh:
      return value / (1 + expf(-value * (kGeluLinear + kGeluCubic * value * value)));
  }
  return NAN;
}

// Writes the output of one lane of a tile (of a gate and an up tile), for a block of one row.
static inline void write_one(const MatMul* op, const Block* b, int32_t tile, int lane, float value,
                             float up) {
  const int64_t n = (int64_t)(is_paired(op) ? tile / 2 : tile) * kTile + lane;
  if (n >= op->columns) return;
  if (op->low_rank.rank) {
    value += low_rank_at(&op->low_rank, b->first, tile, lane);
    if (is_paired(op)) up += low_rank_at(&op->low_rank, b->first, tile + 1, lane);
  }
  if (op->bias) value += op->bias[n];
  if (op->bias && is_paired(op)) up += op->bias[op->columns + n];
  value = activated(op->activation, value, up);
  if (op->residual) value += op->residual[b->first * op->columns + n];
  const Part* part = part_of(op, n);
  part->y[b->first * part->columns + n - part->first] = value;
}

}  // namespace bitfold
