// Bit-plane products of many rows on AVX-512: one or two tiles stay in L1 while blocks of rows pass.
//
// 512 products of bits take three instructions, and four may start in each cycle: all that is in
// the way of them is kept out of the loops.
//
// Internal linkage throughout: only translation units built for AVX-512 include this.
#pragma once

#include "planes_avx512.h"

namespace bitfold {
namespace {

// Where sums of one or two tiles go, or come from: rows of 16 floats.
struct TileRows {
  float* at[2];       // row 0
  int64_t stride[2];  // floats between rows
};

// One or two tiles that many rows are multiplied with.
struct PlanePanel {
  const uint8_t* bytes;  // packed codes, or the planes made of them
  const float* scales;   // [tile][G][16]
  const float* zeros;    // the same, or null
  const uint8_t* ahead;  // packed bytes that are needed next
  int64_t ahead_lines;   // of them, to be fetched beside each block
};

// Write the sums of `count` blocks of R rows each, from `index` on, to `to`: with the biases [NT]
// and the rows of `residual`, if any.  ROW_SCALES: see has_row_scales.
template <class Count, bool ROW_SCALES, int BITS, int ACTS, int R, int NT>
void multiply_panel(const MatMul* op, const PlanePanel* panel, int32_t index, int32_t count,
                    const __m512* bias, const TileRows* residual, TileRows to) {
  const PackedWeight* w = op->weight;
  const int64_t stride = tile_bytes(w);
  const int32_t each = group_chunks(w), groups = w->groups, chunks = w->chunks;
  const int64_t next = (int64_t)groups * kTile;
  // Chunks without a branch: the end of a short loop is foreseen, that of a long one is not.
  constexpr int kAtOnce = BITS * ACTS == 1 ? 4 : 2;
  const int32_t act_lines = chunks * ACTS * R / 16;
  const uint8_t* ahead = panel->ahead;
  TileRows add = residual ? *residual : to;
  __m512i factor[BITS][ACTS];
  factors_of(op, factor);
  Block b = block_at(op, index);
  const int64_t step = op->block_stride / 4;
  for (int32_t block = 0; block < count; block++) {
    __m512 total[NT][R];
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++)
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        // The rows of Y are far apart: waiting for them at the end would take as long as the sums.
        _mm_prefetch((const char*)(to.at[t] + r * to.stride[t]), _MM_HINT_T0);
        total[t][r] = _mm512_setzero_ps();
      }
    for (int64_t line = 0; line < panel->ahead_lines; line++, ahead += kLine)
      _mm_prefetch((const char*)ahead, _MM_HINT_T1);
    for (int32_t line = 0; line <= act_lines; line++)
      _mm_prefetch((const char*)(b.q + step + 16 * line), _MM_HINT_T0);
    const uint8_t* bytes = panel->bytes;
    const uint32_t* a = (const uint32_t*)b.q;
    const int32_t* start = b.start;
    const float *scale_a = b.scale, *sum_a = b.sum;
    const float *scales = panel->scales, *zeros = panel->zeros;
    int32_t left = chunks;
    for (int32_t g = 0; g < groups; g++) {
      __m512i acc[NT][R];
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        BITFOLD_UNROLL
        for (int t = 0; t < NT; t++) acc[t][r] = broadcast(start + r);
      }
      int32_t chunk = left < each ? left : each;
      left -= chunk;
      for (; chunk >= kAtOnce; chunk -= kAtOnce) {
        BITFOLD_UNROLL
        for (int i = 0; i < kAtOnce; i++, bytes += BITS * kLine, a += ACTS * R) {
          add_chunk<Count, BITS, ACTS, R, NT>(acc, bytes, stride, a, factor);
          fence();
        }
      }
      for (; chunk > 0; chunk--, bytes += BITS * kLine, a += ACTS * R)
        add_chunk<Count, BITS, ACTS, R, NT>(acc, bytes, stride, a, factor);
      BITFOLD_UNROLL
      for (int t = 0; t < NT; t++) {
        const __m512 scale = _mm512_loadu_ps(scales + t * next);
        BITFOLD_UNROLL
        for (int r = 0; r < R; r++) {
          __m512 part = _mm512_cvtepi32_ps(acc[t][r]);
          if (zeros)
            part = _mm512_fnmadd_ps(_mm512_loadu_ps(zeros + t * next), _mm512_set1_ps(sum_a[r]),
                                    part);
          total[t][r] = add_group(total[t][r], part, scale, scale_a[r], ROW_SCALES);
        }
      }
      scales += kTile, start += R, scale_a += R;
      if (zeros) zeros += kTile, sum_a += R;
    }
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++) {
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        __m512 sum = _mm512_add_ps(scaled(total[t][r], b.scale[r], ROW_SCALES), bias[t]);
        if (residual)
          sum = _mm512_add_ps(sum, _mm512_loadu_ps(add.at[t] + r * add.stride[t]));
        _mm512_storeu_ps(to.at[t] + r * to.stride[t], sum);
      }
      to.at[t] += R * to.stride[t], add.at[t] += R * add.stride[t];
    }
    b.q += step, b.start += step, b.scale += step, b.sum += step;
  }
}

}  // namespace
}  // namespace bitfold
