// Scalar access to packed weights, for the reference kernels.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "packed_weight.h"

namespace bitfold {

// The code of input channel k in one lane of a tile that starts at `packed`.
static inline int code_at(const PackedWeight* w, const uint8_t* packed, int64_t k, int lane) {
  const uint8_t* chunk = packed + k / kChunk * kLine * w->bits;
  int within = (int)(k % kChunk), code = 0, first = 0, low = 0;
  for (int width = 8; width >= 1; width /= 2) {
    if (!(w->bits & width)) continue;
    int line = within / (32 / width), field = within % (32 / width) / 4;
    int byte = chunk[(first + line) * kLine + lane * 4 + within % 4];
    code |= (byte >> (field * width) & ((1 << width) - 1)) << low;
    first += width;
    low += width;
  }
  return code;
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
