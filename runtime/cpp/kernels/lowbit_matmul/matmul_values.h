// Float activations times float levels, for any width of vectors.
//
// A tile's levels are looked up once, as f32 [k][16], and multiplied by all blocks of rows.
//
// V has the vectors: kLanes, Vector, zero, set, load, fma, fnma, mul, store; and, of a tile,
// levels (look all of it up), scales, zeros (those of one group, in units of kLanes) and write.
// Internal linkage throughout: each ISA's file instantiates this with its own V.
#pragma once

#include "lowbit_matmul.h"

namespace bitfold {
namespace {

// Sums [R][16] of a tile whose levels are `levels` [k][16].
template <class V, int R>
void dot_values(const MatMul* op, const Block* b, int32_t tile, const float* levels,
                float* sums) {
  typedef typename V::Vector Vector;
  // Few rows are few chains of dependent sums: each is split over several accumulators.
  constexpr int kSplit = R == 1 ? 4 : R == 2 ? 2 : 1, kParts = kTile / V::kLanes;
  const PackedWeight* w = op->weight;
  for (int part = 0; part < kParts; part++) {
    const float* level = levels + part * V::kLanes;
    const float* x = b->x;
    Vector total[R];
    for (int r = 0; r < R; r++) total[r] = V::zero();
    int64_t k = 0;
    for (int32_t g = 0; g < w->groups; g++) {
      Vector acc[kSplit][R];
      for (int s = 0; s < kSplit; s++)
        for (int r = 0; r < R; r++) acc[s][r] = V::zero();
      const int64_t end = k + w->group_size < w->k ? k + w->group_size : w->k;
      for (; k + kSplit <= end; k += kSplit)
        for (int s = 0; s < kSplit; s++, level += kTile, x += R) {
          const Vector value = V::load(level);
          for (int r = 0; r < R; r++) acc[s][r] = V::fma(value, V::set(x[r]), acc[s][r]);
        }
      for (; k < end; k++, level += kTile, x += R) {
        const Vector value = V::load(level);
        for (int r = 0; r < R; r++) acc[0][r] = V::fma(value, V::set(x[r]), acc[0][r]);
      }
      const int64_t at = ((int64_t)tile * w->groups + g) * kParts + part;
      const Vector scale = V::scales(w, at);
      for (int r = 0; r < R; r++) {
        for (int s = 1; s < kSplit; s++) acc[0][r] = V::add(acc[0][r], acc[s][r]);
        if (w->zero_points)
          acc[0][r] = V::fnma(V::zeros(w, at), V::set(b->sum[g * R + r]), acc[0][r]);
        total[r] = V::fma(acc[0][r], scale, total[r]);
      }
    }
    for (int r = 0; r < R; r++)
      V::store(sums + r * kTile + part * V::kLanes, V::mul(total[r], V::set(b->scale[r])));
  }
}

// DOTS holds dot_values for 1, 2, ... rows.
template <class V, int ROWS>
void multiply_values(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                     int32_t block1, uint8_t* scratch,
                     void (*const (&dots)[ROWS])(const MatMul*, const Block*, int32_t,
                                                 const float*, float*)) {
  alignas(64) float sums[2 * ROWS * kTile];
  const int32_t by = is_paired(op) ? 2 : 1;
  const int64_t each = padded_k(op->weight) * kTile;
  float* levels = (float*)scratch;
  uint8_t* codes = (uint8_t*)(levels + by * each);
  for (int32_t tile = tile0; tile < tile1; tile += by) {
    for (int32_t t = 0; t < by; t++) V::levels(op, tile + t, codes, levels + t * each);
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      float* up_sums = sums + (by - 1) * b.rows * kTile;
      for (int32_t t = 0; t < by; t++)
        dots[b.rows - 1](op, &b, tile + t, levels + t * each, t ? up_sums : sums);
      V::write(op, &b, tile, sums, up_sums);
    }
  }
}

}  // namespace
}  // namespace bitfold
