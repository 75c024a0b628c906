// The walk over tiles and row blocks that the int8 and the float kernels for AVX-512 share.
//
// Tiles go two at a time: an activation that is broadcast once is multiplied by both.  Up to
// kFusedRows rows, codes are decoded in registers on their way to the product, and the packed
// bytes stream in at memory speed.  Above, two tiles are decoded into a panel of operand bytes
// that all blocks of rows reuse, zero points subtracted.
#pragma once

#include "avx512.h"

namespace bitfold {

constexpr int kBlockRows = 6;
constexpr int kFusedRows = 12;

void quantize_avx512(const MatMul* op, int32_t block);
void interleave_avx512(const MatMul* op, int32_t block);
void multiply_float_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                           int32_t block1, uint8_t* scratch);
// The same for float levels.
void multiply_values_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                            int32_t block1, uint8_t* scratch);

namespace {

// Sums [tiles][rows][16] of a few tiles, from their bytes (packed, or a decoded panel).
// zero_points is [T][G][16], or null when the bytes already hold them.
typedef void (*Dot)(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
                    const int8_t* zero_points, float* sums);

struct Dots {
  // [kBlockRows], packed bytes of one tile for one row, of two for more; null: only by way of a
  // panel.
  const Dot* fused;
  const Dot* one;    // [kBlockRows], one tile of a panel
  const Dot* two;    // [kBlockRows], two tiles of a panel
};

// Whether the panel takes up zero points, and operand bytes are levels + 128.
inline bool folds(const MatMul* op) {
  return op->rows > kFusedRows && op->weight->zero_points && !is_decoded(op->weight);
}

// A pair of tiles, or one: their bytes and zero points.
struct Panel {
  const uint8_t* bytes;
  const int8_t* zero_points;
};

// Decode `tiles` tiles into `scratch`, or point at them where they need no decoding.
inline Panel decode_panel(const MatMul* op, Decode decode_tile, int32_t tile, int32_t tiles,
                          uint8_t* scratch) {
  const PackedWeight* w = op->weight;
  if (is_decoded(w)) return {w->packed + tile * tile_bytes(w), w->zero_points};
  const int64_t zeros = (int64_t)w->groups * kTile;
  bool folded = folds(op);
  for (int32_t t = 0; t < tiles && folded; t++)
    folded = tile_folds(w, w->zero_points + (tile + t) * zeros);
  for (int32_t t = 0; t < tiles; t++) {
    const Shift shift = {folded ? w->zero_points + (tile + t) * zeros : nullptr,
                         op->offset - w->offset};
    decode_tile(w, tile + t, &shift, scratch + t * padded_k(w) * kTile);
  }
  return {scratch, folded ? nullptr : w->zero_points};
}

inline void write_all(const MatMul* op, const Block* b, int32_t tile, int32_t tiles,
                      const float* sums) {
  const int32_t each = b->rows * kTile, by = is_paired(op) ? 2 : 1;
  for (int32_t t = 0; t < tiles; t += by)
    write(op, b, tile + t, sums + t * each, sums + (t + by - 1) * each);
}

inline void multiply_tiles(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                           int32_t block1, uint8_t* scratch, const Dots* dots) {
  const PackedWeight* w = op->weight;
  alignas(64) float sums[2 * kBlockRows * kTile];
  int32_t tile = tile0;
  if (op->rows <= kFusedRows && dots->fused) {
    const bool single = op->rows == 1;
    for (int32_t tiles = 2; tile < tile1; tile += tiles) {
      if (tile + 1 == tile1) {
        if (!single) break;  // the last tile of an odd number goes by way of a panel
        tiles = 1;
      }
      for (int32_t index = block0; index < block1; index++) {
        const Block b = block_at(op, index);
        for (int32_t t = 0; t < (single ? tiles : 1); t++)
          dots->fused[b.rows - 1](op, &b, tile + t, w->packed + (tile + t) * tile_bytes(w),
                                  w->zero_points, sums + t * kTile);
        write_all(op, &b, tile, tiles, sums);
      }
    }
  }
  const Decode decode_tile = decoder(w);
  for (; tile < tile1; tile += 2) {
    const int32_t tiles = tile1 - tile < 2 ? 1 : 2;
    const Panel panel = decode_panel(op, decode_tile, tile, tiles, scratch);
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      (tiles == 2 ? dots->two : dots->one)[b.rows - 1](op, &b, tile, panel.bytes,
                                                       panel.zero_points, sums);
      write_all(op, &b, tile, tiles, sums);
    }
  }
}

}  // namespace
}  // namespace bitfold
