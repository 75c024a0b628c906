// Scalar access to packed weights, for the reference kernels.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "packed_weight.h"

namespace bitfold {

// The code of one of a chunk's steps in the bytes, one of each line, from `byte` on.
static inline int code_in(int bits, const uint8_t* byte, int step) {
  int code = 0;
  for (int i = 0; i < kPieces; i++) {
    const Piece p = piece_of(bits, step, i);
    code |= (byte[p.line * kLine] >> p.at & ((1 << p.width) - 1)) << p.low;
  }
  return code;
}

// The code of input channel k in one lane of a tile that starts at `packed`.
static inline int code_at(const PackedWeight* w, const uint8_t* packed, int64_t k, int lane) {
  const uint8_t* chunk = packed + k / kChunk * kLine * w->bits;
  return code_in(w->bits, chunk + lane * 4 + k % 4, (int)(k % kChunk / 4));
}

static inline float half_to_float(uint16_t half) {
  uint32_t sign = (uint32_t)(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023;
  float value;
  if (exponent == 0) {
    value = (float)fraction * 0x1p-24f;
    return sign ? -value : value;
  }
  uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// The scale at one index of [T][G][16].
static inline float scale_at(const PackedWeight* w, int64_t index) {
  switch (w->scale_type) {
    case kScaleF32:
      return ((const float*)w->scales)[index];
    case kScaleF16:
      return half_to_float(((const uint16_t*)w->scales)[index]);
    case kScaleBf16:
      return float_of_bits((uint32_t)((const uint16_t*)w->scales)[index] << 16);
    case kScaleE8m0: {
      const uint32_t exponent = ((const uint8_t*)w->scales)[index];
      return float_of_bits(exponent ? exponent << 23 : 1u << 22);
    }
    case kScaleE4m3: {
      const uint32_t bits = ((const uint8_t*)w->scales)[index];
      return half_to_float((uint16_t)((bits & 0x80) << 8 | (bits & 0x7f) << 7)) * w->e4m3_unit;
    }
  }
  return NAN;
}

// What an operand byte stands for, less any zero point.
static inline float level_of(const PackedWeight* w, uint8_t operand) {
  return w->has_values ? w->values[operand] : (float)(operand - w->offset);
}

}  // namespace bitfold
