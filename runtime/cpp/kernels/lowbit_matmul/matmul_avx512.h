// A few rows on AVX-512, for int8 and float activations alike: codes are decoded in registers on
// their way to the product, and the packed bytes stream in at memory speed.
//
// Tiles go two at a time: an activation that is broadcast once is multiplied by both.  Above
// kFusedRows rows two tiles are decoded into a panel of operand bytes that many rows share.
#pragma once

#include "avx512.h"

namespace bitfold {

constexpr int kBlockRows = 6;
constexpr int kFusedRows = 18;

void quantize_avx512(const MatMul* op, int32_t block, const float* x);
// To two to four bits, as planes [C][act_bits][rows]: see planes.h.
void quantize_planes_avx512(const MatMul* op, int32_t block, const float* x);
// Floats as fixed point.
void write_fixed_rows_avx512(const MatMul* op, int32_t block, const float* x);
void interleave_avx512(const MatMul* op, int32_t block, const float* x);
// Y for more rows than are multiplied while they are decoded: see panel_avx512vnni.cc.
void multiply_panels_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                            int32_t block1, Decode decode, uint8_t* scratch);
int64_t panel_scratch_avx512(const MatMul* op);
// Y of float inputs for float levels.
void multiply_values_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                            int32_t block1, uint8_t* scratch);

namespace {

// Sums [tiles][rows][16] of a few tiles, from their bytes (packed, or a decoded panel).
// zero_points is [T][G][16], or null when the bytes already hold them.
typedef void (*Dot)(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
                    const int8_t* zero_points, float* sums);

// Whether the panel takes up zero points, and operand bytes are levels + 128.  Masked weights are
// decoded before they are in their lanes.
inline bool folds(const MatMul* op) {
  const PackedWeight* w = op->weight;
  return int8_rows(op) > kFusedRows && w->zero_points && !is_decoded(w) && !w->masks;
}

// A group's products added to a total, times the weight's scales and, unless a row has a single one
// that `scaled` takes in the end, the activations'.
BITFOLD_INLINE __m512 add_group(__m512 total, __m512 part, __m512 scale, float scale_a,
                                bool row_scales) {
  if (row_scales) return _mm512_fmadd_ps(part, scale, total);
  return _mm512_fmadd_ps(_mm512_mul_ps(part, scale), _mm512_set1_ps(scale_a), total);
}

BITFOLD_INLINE __m512 scaled(__m512 total, float scale_a, bool row_scales) {
  return row_scales ? _mm512_mul_ps(total, _mm512_set1_ps(scale_a)) : total;
}

inline void write_all(const MatMul* op, const Block* b, int32_t tile, int32_t tiles,
                      float* sums) {
  const int32_t each = b->rows * kTile, by = is_paired(op) ? 2 : 1;
  for (int32_t t = 0; t < tiles; t += by)
    write(op, b, tile + t, sums + t * each, sums + (t + by - 1) * each);
}

// Multiply a few rows with codes that are decoded on their way.  Returns the first tile left: the
// last one of an odd number goes by way of a panel.
inline int32_t multiply_packed(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                               int32_t block1, const Dot* dots) {
  const PackedWeight* w = op->weight;
  alignas(64) float sums[2 * kBlockRows * kTile];
  int32_t tile = tile0;
  for (; tile + 2 <= tile1; tile += 2)
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      dots[b.rows - 1](op, &b, tile, w->packed + tile * tile_bytes(w), w->zero_points, sums);
      write_all(op, &b, tile, 2, sums);
    }
  return tile;
}

}  // namespace
}  // namespace bitfold
