// Products of a panel, the operand bytes of one or two tiles, and blocks of int8 rows on AVX-512.
//
// Internal linkage throughout: only translation units built for AVX-512 include this.
#pragma once

#include "matmul_avx512.h"

namespace bitfold {
namespace {

constexpr int kTiles = 2;

// Rows of 16 floats for each of a few tiles, of one block after the other.
struct Rows {
  float* at[kTiles];        // row 0 of the first block
  int64_t stride[kTiles];   // floats between rows
  int64_t block[kTiles];    // floats between blocks
};

// A segment of one or two tiles.
struct Panel {
  const uint8_t* bytes;  // [tile][chunk][8][64]
  int64_t stride;        // bytes between tiles
  const float* scales;   // [tile][group][16]
  const float* zeros;    // the same, or null
  int64_t groups;        // in the segment
  int64_t halves, group_halves;  // runs of 16 input channels
  const uint8_t *ahead, *ahead_end;  // packed bytes that are needed next
  int64_t lines_ahead;               // of them, to be fetched beside each group of each block
  int64_t rows_ahead;                // of sums, likewise
};

// The activations of a few blocks of equally many rows in a segment.
struct Acts {
  const int32_t *q, *start;
  const float *scale, *sum;
  int64_t block;  // int32 or floats between blocks
  int32_t count;  // blocks
};

// Where a segment's sums come from and go to.
struct Sums {
  const Rows* from;      // sums of the segments before this one, or null
  Rows to;
  bool last;             // the last segment's sums are given their scales, and these are added:
  __m512 bias[kTiles];
  const Rows* residual;  // or null
};

// Add a segment's products to its sums.  ROW_SCALES: see has_row_scales.
//
// All there is to a step are R * NT products, R broadcasts and NT loads, and two products may
// start in each cycle: with twelve sums the loop runs at the speed of the products.
template <bool ZEROS, bool ROW_SCALES, int R, int NT>
void panel_dot(const Panel* panel, Acts acts, const Sums* sums) {
  const int64_t stride = panel->stride, next = panel->groups * kTile;
  const int64_t group_halves = panel->group_halves;
  const uint8_t* ahead = panel->ahead;
  Rows to = sums->to, from = sums->from ? *sums->from : to;
  Rows residual = sums->residual ? *sums->residual : to;
  for (int32_t block = 0; block < acts.count; block++) {
    __m512 total[NT][R];
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++)
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++)
        total[t][r] = sums->from ? _mm512_loadu_ps(from.at[t] + r * from.stride[t])
                                 : _mm512_setzero_ps();
    const uint8_t* bytes = panel->bytes;
    const float *scales = panel->scales, *zeros = panel->zeros;
    const int32_t *q = acts.q, *start = acts.start;
    const float *scale_a = acts.scale, *sum_a = acts.sum;
    int64_t row = 0;
    for (int64_t left = panel->halves; left > 0; left -= group_halves) {
      // A few lines with each group: many at once would hold up the loads behind them.  The rows of
      // Y are far apart: waiting for them at the end would take as long as the sums.
      for (int64_t i = 0; i < panel->lines_ahead && ahead < panel->ahead_end; i++, ahead += kLine)
        _mm_prefetch((const char*)ahead, _MM_HINT_T1);
      for (int64_t i = 0; i < panel->rows_ahead && row < R; i++, row++) {
        BITFOLD_UNROLL
        for (int t = 0; t < NT; t++)
          _mm_prefetch((const char*)(to.at[t] + row * to.stride[t]), _MM_HINT_T0);
      }
      __m512i acc[NT][R];
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        const __m512i begin = _mm512_set1_epi32(start[r]);
        BITFOLD_UNROLL
        for (int t = 0; t < NT; t++) acc[t][r] = begin;
      }
      int64_t half = left < group_halves ? left : group_halves;
      do {
        BITFOLD_UNROLL
        for (int s = 0; s < 4; s++, q += R, bytes += kLine) {
          __m512i u[NT];
          BITFOLD_UNROLL
          for (int t = 0; t < NT; t++) u[t] = _mm512_loadu_si512(bytes + t * stride);
          BITFOLD_UNROLL
          for (int r = 0; r < R; r++) {
            const __m512i a = _mm512_set1_epi32(q[r]);
            BITFOLD_UNROLL
            for (int t = 0; t < NT; t++) add_products(acc[t][r], u[t], a);
          }
          fence();
        }
      } while (--half);
      BITFOLD_UNROLL
      for (int t = 0; t < NT; t++) {
        const __m512 scale = _mm512_loadu_ps(scales + t * next);
        const __m512 zero = ZEROS ? _mm512_loadu_ps(zeros + t * next) : _mm512_setzero_ps();
        BITFOLD_UNROLL
        for (int r = 0; r < R; r++) {
          __m512 part = _mm512_cvtepi32_ps(acc[t][r]);
          if (ZEROS) part = _mm512_fnmadd_ps(zero, _mm512_set1_ps(sum_a[r]), part);
          total[t][r] = add_group(total[t][r], part, scale, scale_a[r], ROW_SCALES);
        }
        fence();
      }
      scales += kTile, start += R, scale_a += R;
      if (ZEROS) zeros += kTile, sum_a += R;
    }
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++) {
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        __m512 sum = total[t][r];
        if (sums->last)
          sum = _mm512_add_ps(scaled(sum, acts.scale[r], ROW_SCALES), sums->bias[t]);
        if (sums->residual)
          sum = _mm512_add_ps(sum, _mm512_loadu_ps(residual.at[t] + r * residual.stride[t]));
        _mm512_storeu_ps(to.at[t] + r * to.stride[t], sum);
      }
      to.at[t] += to.block[t], from.at[t] += from.block[t], residual.at[t] += residual.block[t];
    }
    acts.q += acts.block, acts.start += acts.block;
    acts.scale += acts.block, acts.sum += acts.block;
  }
}

typedef void (*PanelDot)(const Panel* panel, Acts acts, const Sums* sums);

template <bool ZEROS, bool ROW_SCALES, int NT>
constexpr PanelDot kPanelDots[kBlockRows] = {
    panel_dot<ZEROS, ROW_SCALES, 1, NT>, panel_dot<ZEROS, ROW_SCALES, 2, NT>,
    panel_dot<ZEROS, ROW_SCALES, 3, NT>, panel_dot<ZEROS, ROW_SCALES, 4, NT>,
    panel_dot<ZEROS, ROW_SCALES, 5, NT>, panel_dot<ZEROS, ROW_SCALES, 6, NT>};

template <bool ZEROS, bool ROW_SCALES>
PanelDot panel_dot_of(int32_t rows, int32_t tiles) {
  return (tiles == 2 ? kPanelDots<ZEROS, ROW_SCALES, 2>
                     : kPanelDots<ZEROS, ROW_SCALES, 1>)[rows - 1];
}

PanelDot panel_dot_for(bool zeros, bool row_scales, int32_t rows, int32_t tiles) {
  if (zeros)
    return row_scales ? panel_dot_of<true, true>(rows, tiles)
                      : panel_dot_of<true, false>(rows, tiles);
  return row_scales ? panel_dot_of<false, true>(rows, tiles)
                    : panel_dot_of<false, false>(rows, tiles);
}

}  // namespace
}  // namespace bitfold
