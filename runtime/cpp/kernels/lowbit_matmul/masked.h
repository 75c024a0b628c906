// Weights in the masked layout (runtime/layouts/masked.py): a bit for each weight, and the codes of
// those that are not zero.
//
// A chunk's lines are first put where a dense chunk has them, and decoded as such: each step's
// operands then stand together at its first bytes, from where they are spread over the places that
// the mask has bits for.
//
// Internal linkage: ISA files include this.
#pragma once

#include <string.h>

#include "lowbit_matmul.h"

namespace bitfold {

// What an ISA has for masked weights.
struct MaskedKernels {
  // Bytes [steps][64], of which the first ones of each step belong where its mask has bits; those
  // of `zero` [64] go elsewhere.
  void (*spread)(uint8_t* bytes, const uint8_t* masks, int64_t steps, const uint8_t* zero);
  // Y for a single row of int8 activations, or null where there is nothing better than a panel.
  void (*multiply_row)(const MatMul* op, int32_t tile0, int32_t tile1);
};

extern const MaskedKernels kMaskedRef;
#if defined(BITFOLD_X86)
extern const MaskedKernels kMaskedAvx2;
extern const MaskedKernels kMaskedAvx512Vbmi2;
#elif defined(BITFOLD_ARM64)
extern const MaskedKernels kMaskedNeon;
#endif

static inline uint64_t mask_at(const uint8_t* masks, int64_t step) {
  uint64_t mask;
  memcpy(&mask, masks + step * 8, sizeof mask);
  return mask;
}

static inline const uint8_t* masks_of(const PackedWeight* w, int32_t tile, int32_t chunk) {
  return w->masks + ((int64_t)tile * w->chunks + chunk) * kLine;
}

// steps_in_line for each width and line.
struct StepsInLines {
  uint8_t of[9][8];
  constexpr StepsInLines() : of() {
    for (int bits = 1; bits <= 8; bits++)
      for (int line = 0; line < bits; line++) of[bits][line] = (uint8_t)steps_in_line(bits, line);
  }
};

// The bytes of each of a chunk's `bits` lines, from its eight masks.
static inline void line_lengths(int32_t bits, const uint8_t* masks, int* lengths) {
  static constexpr StepsInLines kSharing;
  int counts[kSteps];
  for (int s = 0; s < kSteps; s++) counts[s] = __builtin_popcountll(mask_at(masks, s));
  for (int line = 0; line < bits; line++) {
    const int steps = kSharing.of[bits][line];
    lengths[line] = 0;
    for (int s = 0; s < kSteps; s++)
      if (steps >> s & 1 && counts[s] > lengths[line]) lengths[line] = counts[s];
  }
}

// Put the lines of a few chunks, which begin at `from`, where dense chunks have them.  Returns
// where the next chunk's begin.
static inline const uint8_t* put_lines(const PackedWeight* w, const uint8_t* masks, int32_t chunks,
                                       const uint8_t* from, uint8_t* to) {
  int lengths[8];
  for (int32_t c = 0; c < chunks; c++, masks += kLine) {
    line_lengths(w->bits, masks, lengths);
    for (int line = 0; line < w->bits; line++) {
      memcpy(to, from, kLine);
      from += lengths[line], to += kLine;
    }
  }
  return from;
}

static inline const uint8_t* first_line(const PackedWeight* w, int32_t tile) {
  return w->packed + w->first_lines[tile];
}

// Bytes that the lines of a whole tile take when they are put in their places.
static inline int64_t lines_scratch(const PackedWeight* w) {
  return w->masks ? tile_bytes(w) : 0;
}

// What a weight that is not kept is multiplied by: `byte` and, where there are any, its zero point.
struct ZeroBytes {
  const int8_t* zero_points;  // [T][G][16] or null
  int32_t byte;
};

// For operand bytes with this offset.
static inline ZeroBytes zero_bytes(const PackedWeight* w, int32_t offset) {
  if (w->has_values) return {nullptr, w->zero_code};
  return {w->zero_points, offset};
}

// Spread the operands [chunks][8][64] of the chunks [first, last) of a tile; a group begins at the
// first of them.
static inline void spread_operands(const MaskedKernels* kernels, const PackedWeight* w,
                                   int32_t tile, int32_t first, int32_t last, ZeroBytes zero,
                                   uint8_t* bytes) {
  const uint8_t* masks = masks_of(w, tile, first);
  const int64_t all = (int64_t)last * 8;
  uint8_t line[kLine];
  int64_t step = (int64_t)first * 8;
  for (int64_t g = 4 * step / w->group_size; step < all; g++) {
    const bool more = zero.zero_points && g + 1 < w->groups;
    int64_t end = more ? (g + 1) * w->group_size / 4 : all;
    if (end > all) end = all;
    for (int i = 0; i < kLine; i++) {
      const int64_t at = ((int64_t)tile * w->groups + g) * kTile + i / 4;
      line[i] = (uint8_t)(zero.byte + (zero.zero_points ? zero.zero_points[at] : 0));
    }
    kernels->spread(bytes, masks, end - step, line);
    bytes += (end - step) * kLine, masks += (end - step) * 8, step = end;
  }
}

}  // namespace bitfold
