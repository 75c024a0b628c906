// The walk over tiles and row blocks that the int8 and the float kernels for AVX-512 share.
#pragma once

#include "avx512.h"

namespace bitfold {

void quantize_avx512(const MatMul* op, int32_t block);
void interleave_avx512(const MatMul* op, int32_t block);
void multiply_int8_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                          int32_t block1, uint8_t* scratch);
void multiply_float_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                           int32_t block1, uint8_t* scratch);

namespace {

constexpr int kFusedRows = 4;         // up to here lines are decoded in registers
constexpr int kMostTiles = 8;         // of a panel
constexpr int64_t kPanelBytes = 64 << 10;

// Sums [tiles][rows][16] of a few tiles, from their bytes (packed, or a decoded panel).
typedef void (*Dot)(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
                    float* sums);

struct FusedDots {
  const Dot* many;  // [kFusedRows], for `tiles_in_flight` tiles
  const Dot* one;   // [kFusedRows], for one tile
};

inline int tiles_in_flight(int rows) { return rows == 1 ? 4 : 2; }

// Tiles that are decoded together: a few, so that a block of rows is read once for all of them.
inline int32_t panel_tiles(const MatMul* op) {
  int64_t fit = kPanelBytes / (padded_k(op->weight) * kTile);
  int64_t tiles = fit < 1 ? 1 : fit > kMostTiles ? kMostTiles : fit;
  return (int32_t)(op->swiglu ? round_up(tiles, 2) : tiles);
}

inline int64_t scratch_avx512(const MatMul* op) {
  return panel_tiles(op) * padded_k(op->weight) * kTile;
}

inline void write_all(const MatMul* op, const Block* b, int32_t tile, int32_t tiles,
                      const float* sums) {
  const int32_t each = b->rows * kTile, by = op->swiglu ? 2 : 1;
  for (int32_t t = 0; t < tiles; t += by)
    write(op, b, tile + t, sums + t * each, sums + (t + by - 1) * each);
}

inline void multiply_fused(const MatMul* op, int32_t tile0, int32_t tile1, const Block* b,
                           FusedDots dots) {
  alignas(64) float sums[4 * kFusedRows * kTile];
  const int64_t bytes = tile_bytes(op->weight);
  const int32_t many = tiles_in_flight(b->rows);
  int32_t tile = tile0;
  for (; tile + many <= tile1; tile += many) {
    dots.many[b->rows - 1](op, b, tile, op->weight->packed + tile * bytes, sums);
    write_all(op, b, tile, many, sums);
  }
  const int32_t by = op->swiglu ? 2 : 1;
  for (; tile < tile1; tile += by) {
    for (int32_t t = 0; t < by; t++)
      dots.one[b->rows - 1](op, b, tile + t, op->weight->packed + (tile + t) * bytes,
                            sums + t * b->rows * kTile);
    write_all(op, b, tile, by, sums);
  }
}

inline void multiply_tiles(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                    int32_t block1, uint8_t* scratch, FusedDots fused, const Dot* panel_dots) {
  const PackedWeight* w = op->weight;
  if (block1 - block0 == 1) {
    Block b = block_at(op, block0);
    if (b.rows <= kFusedRows) {
      multiply_fused(op, tile0, tile1, &b, fused);
      return;
    }
  }
  alignas(64) float sums[2 * kMaxBlockRows * kTile];
  const int64_t bytes = padded_k(w) * kTile;
  const int32_t most = panel_tiles(op), by = op->swiglu ? 2 : 1;
  const Decode decode_tile = decoder(w);
  for (int32_t tile = tile0; tile < tile1; tile += most) {
    const int32_t tiles = tile1 - tile < most ? tile1 - tile : most;
    const uint8_t* panel = scratch;
    if (is_decoded(w)) {
      panel = w->packed + tile * bytes;
    } else {
      for (int32_t t = 0; t < tiles; t++) decode_tile(w, tile + t, scratch + t * bytes);
    }
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      for (int32_t t = 0; t < tiles; t += by) {
        for (int32_t p = 0; p < by; p++)
          panel_dots[b.rows - 1](op, &b, tile + t + p, panel + (t + p) * bytes,
                                 sums + p * b.rows * kTile);
        write_all(op, &b, tile + t, by, sums);
      }
    }
  }
}

}  // namespace
}  // namespace bitfold
