// A packed low-bit weight W[n, k], as every kernel sees it.  Plain data: ISA files include this.
//
// The bytes are those of runtime/layouts/tiles.py: tiles of 16 output channels, each a run of
// chunks of 32 input channels, each chunk `bits` lines of 64 bytes; or, where there are masks,
// those of runtime/layouts/masked.py, which LowBitMatMul alone takes.
#pragma once

#include <stdint.h>

namespace bitfold {

enum { kTile = 16, kChunk = 32, kSteps = 8, kLine = 64 };

// Where bits of a code lie: `width` of them, from bit `low` on, are those from bit `at` on of the
// bytes of a chunk's line.  No bits: a width of 0.
struct Piece {
  int line, at, low, width;
};

enum { kPieces = 3 };

// Piece 0, 1 or 2 of the codes of a step (four input channels): of the plane of 8 or 4 bits; of
// that of the other bits; and the lowest of 3 bits where that lies apart.
static constexpr Piece piece_of(int bits, int step, int i) {
  const int wide = bits & 12, rest = bits & 3;
  if (i == 0 && wide) return {step * wide / 8, step * wide % 8, 0, wide};
  if (i == 1 && rest == 3)
    return step < 6 ? Piece{wide + step / 2, step % 2 * 3, wide, 3}
                    : Piece{wide + step - 6, 6, wide + 1, 2};
  if (i == 1 && rest) return {wide + step * rest / 8, step * rest % 8, wide, rest};
  if (i == 2 && rest == 3 && step >= 6) return {wide + 2, 13 - step, wide, 1};
  return {0, 0, 0, 0};
}

// The steps, as bits, that have bits of their codes in a line.
static constexpr unsigned steps_in_line(int bits, int line) {
  unsigned steps = 0;
  for (int step = 0; step < kSteps; step++)
    for (int i = 0; i < kPieces; i++)
      if (piece_of(bits, step, i).width && piece_of(bits, step, i).line == line)
        steps |= 1u << step;
  return steps;
}

// How scales are stored; see runtime/ops/__init__.py.
enum ScaleType { kScaleF32, kScaleF16, kScaleBf16, kScaleE8m0, kScaleE4m3 };

struct PackedWeight {
  int64_t n, k;
  int32_t bits;
  int32_t group_size;
  int32_t groups;        // G = ceil(k / group_size)
  int32_t tiles;         // T
  int32_t chunks;        // C = ceil(k / 32)
  int32_t offset;        // what `operand` adds to a level to make it a byte
  int32_t least, most;   // smallest and largest level
  const uint8_t* packed; // [T][C][bits][64], or the lines of a masked weight
  const uint8_t* masks;  // [T][C][8][8] of a masked weight, else null
  const int64_t* first_lines;  // [T]: where each tile's lines begin in `packed`, with masks
  uint8_t zero_code;     // what stands for 0 among `values`, with masks
  const void* scales;    // [T][G][16], of scale_type
  const int8_t* zero_points;  // [T][G][16] or null
  ScaleType scale_type;
  float e4m3_unit;  // of an E4M3 scale whose bits, sign apart, are put 7 places up in a half
  bool has_table;
  bool has_values;  // codes stand for `values`, float inputs alone are multiplied by these
  // operand[c] = t[c] + offset, an unsigned byte; c itself where there is no table.
  uint8_t operand[256];
  float values[256];  // zeros behind the last code
};

static inline int64_t scale_bytes(const PackedWeight* w) {
  return w->scale_type == kScaleF32 ? 4 : w->scale_type <= kScaleBf16 ? 2 : 1;
}

// Bytes of one tile of a dense weight.
static inline int64_t tile_bytes(const PackedWeight* w) {
  return (int64_t)w->chunks * kLine * w->bits;
}

// Where a tile of a dense weight begins.
static inline const uint8_t* dense_tile(const PackedWeight* w, int64_t tile) {
  return w->packed + tile * tile_bytes(w);
}

// Input channels of one tile, padded to whole chunks.
static inline int64_t padded_k(const PackedWeight* w) { return (int64_t)w->chunks * kChunk; }

}  // namespace bitfold
