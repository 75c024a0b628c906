// The bit-plane kernels of AVX-512, for whatever counts the bits of each byte.
//
// Internal linkage throughout: only translation units built for AVX-512 include this.
#pragma once

#include "binarize_avx512.h"
#include "planes_panel_avx512.h"

namespace bitfold {
namespace {

typedef void (*PlaneDot)(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
                         float* sums);
typedef void (*PanelDot)(const MatMul* op, const PlanePanel* panel, int32_t index, int32_t count,
                         const __m512* bias, const TileRows* residual, TileRows to);

// What multiplies weights of one width by activations of another.
struct PlaneDots {
  PlaneDot single;            // one row
  // With a scale for each group and for each row; one tile, and two; for 1 to kBlockRows rows.
  const PanelDot* panels[2][2];
  void (*make_planes)(const PackedWeight* w, int32_t tile, uint8_t* out);  // or null
};

template <class Count, bool ROW_SCALES, int BITS, int ACTS, int NT>
struct OfRows {
  static constexpr PanelDot kDots[kBlockRows] = {
      multiply_panel<Count, ROW_SCALES, BITS, ACTS, 1, NT>,
      multiply_panel<Count, ROW_SCALES, BITS, ACTS, 2, NT>,
      multiply_panel<Count, ROW_SCALES, BITS, ACTS, 3, NT>,
      multiply_panel<Count, ROW_SCALES, BITS, ACTS, 4, NT>,
      multiply_panel<Count, ROW_SCALES, BITS, ACTS, 5, NT>,
      multiply_panel<Count, ROW_SCALES, BITS, ACTS, 6, NT>};
};

template <class Count, int BITS, int ACTS>
constexpr PlaneDots dots_of() {
  PlaneDots dots = {dot_planes<Count, BITS, ACTS>,
                    {{OfRows<Count, false, BITS, ACTS, 1>::kDots,
                      OfRows<Count, false, BITS, ACTS, 2>::kDots},
                     {OfRows<Count, true, BITS, ACTS, 1>::kDots,
                      OfRows<Count, true, BITS, ACTS, 2>::kDots}},
                    nullptr};
  if constexpr (kMadeAhead<BITS>) dots.make_planes = make_planes<BITS>;
  return dots;
}

// For every pair of widths whose product is at most MOST.
template <class Count, int MOST>
PlaneDots plane_dots(int32_t bits, int32_t acts) {
  if constexpr (MOST >= 4) {
    if (bits == 2 && acts == 2) return dots_of<Count, 2, 2>();
    if (bits == 4) return dots_of<Count, 4, 1>();
    if (acts == 4) return dots_of<Count, 1, 4>();
  }
  if constexpr (MOST >= 3) {
    if (bits == 3) return dots_of<Count, 3, 1>();
    if (acts == 3) return dots_of<Count, 1, 3>();
  }
  if constexpr (MOST >= 2) {
    if (bits == 2) return dots_of<Count, 2, 1>();
    if (acts == 2) return dots_of<Count, 1, 2>();
  }
  return dots_of<Count, 1, 1>();
}

inline void quantize_planes(const MatMul* op, int32_t index, const float* x) {
  return op->act_bits == 1 ? binarize_avx512(op, index, x) : quantize_planes_avx512(op, index, x);
}

// Scratch of one call.
struct PlaneScratch {
  uint8_t* planes;        // of two tiles
  float *scales, *zeros;  // [2][G][16]
};

inline PlaneScratch planes_scratch_at(const MatMul* op, uint8_t* at) {
  const PackedWeight* w = op->weight;
  float* scales = (float*)(at + 2 * tile_bytes(w));
  return {at, scales, scales + 2 * (int64_t)w->groups * kTile};
}

inline int64_t planes_scratch(const MatMul* op) {
  const PackedWeight* w = op->weight;
  return 2 * tile_bytes(w) + 4 * (int64_t)w->groups * kTile * (int64_t)sizeof(float);
}

// One row: packed codes stream in at memory speed.
inline void multiply_single(const MatMul* op, const PlaneDots* dots, int32_t tile0, int32_t tile1,
                            int32_t index, uint8_t* planes) {
  const PackedWeight* w = op->weight;
  const int32_t by = is_paired(op) ? 2 : 1;
  const Block b = block_at(op, index);
  alignas(64) float sums[2 * kTile];
  for (int32_t tile = tile0; tile < tile1; tile += by) {
    for (int32_t t = 0; t < by; t++) {
      const uint8_t* bytes = w->packed + (tile + t) * tile_bytes(w);
      if (dots->make_planes) {
        dots->make_planes(w, tile + t, planes);
        bytes = planes;
      }
      dots->single(op, &b, tile + t, bytes, sums + t * kTile);
    }
    write(op, &b, tile, sums, sums + (by - 1) * kTile);
  }
}

// The panel of one or two tiles.
inline PlanePanel panel_of(const MatMul* op, const PlaneDots* dots, int32_t tile, int32_t tiles,
                           int32_t blocks, const PlaneScratch* scratch) {
  const PackedWeight* w = op->weight;
  PlanePanel panel = {w->packed + tile * tile_bytes(w), scratch->scales,
                      w->zero_points ? scratch->zeros : nullptr,
                      w->packed + (tile + tiles) * tile_bytes(w),
                      (tiles * tile_bytes(w) / kLine + blocks - 1) / blocks};
  for (int32_t t = 0; t < tiles; t++) {
    if (dots->make_planes) dots->make_planes(w, tile + t, scratch->planes + t * tile_bytes(w));
    for (int32_t g = 0; g < w->groups; g++) {
      const int64_t at = (int64_t)(tile + t) * w->groups + g, to = (t * w->groups + g) * kTile;
      _mm512_storeu_ps(scratch->scales + to, scales_at(w, at));
      if (w->zero_points) _mm512_storeu_ps(scratch->zeros + to, zeros_at(w->zero_points, at));
    }
  }
  if (dots->make_planes) panel.bytes = scratch->planes;
  return panel;
}

// Sums that need no activation and fill their tiles go to Y as they are.
inline void multiply_direct(const MatMul* op, PanelDot dot, const PlanePanel* panel, int32_t tile,
                            int32_t tiles, int32_t index, int32_t count) {
  const Block b = block_at(op, index);
  __m512 bias[2] = {};
  TileRows to = {}, residual = {};
  for (int32_t t = 0; t < tiles; t++) {
    const int64_t n = (int64_t)(tile + t) * kTile;
    const Part* part = part_of(op, n);
    to.at[t] = part->y + b.first * part->columns + n - part->first;
    to.stride[t] = part->columns;
    if (op->bias) bias[t] = _mm512_loadu_ps(op->bias + n);
    if (op->residual) residual.at[t] = (float*)op->residual + b.first * op->columns + n;
    residual.stride[t] = op->columns;
  }
  dot(op, panel, index, count, bias, op->residual ? &residual : nullptr, to);
}

inline void multiply_by_way_of_sums(const MatMul* op, PanelDot dot, const PlanePanel* panel,
                                    int32_t tile, int32_t tiles, int32_t index) {
  const Block b = block_at(op, index);
  const int32_t by = is_paired(op) ? 2 : 1;
  alignas(64) float sums[2 * kBlockRows * kTile];
  float* second = sums + b.rows * kTile;
  const __m512 bias[2] = {};
  dot(op, panel, index, 1, bias, nullptr, {{sums, second}, {kTile, kTile}});
  for (int32_t t = 0; t < tiles; t += by)
    write(op, &b, tile + t, t ? second : sums, t + by > 1 ? second : sums);
}

// Tiles go two at a time, as in panel_avx512vnni.cc, and all blocks of rows pass by them.
template <class Count, int MOST>
void multiply_planes(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                     int32_t block1, uint8_t* memory) {
  const PackedWeight* w = op->weight;
  const PlaneDots dots = plane_dots<Count, MOST>(w->bits, op->act_bits);
  const PlaneScratch scratch = planes_scratch_at(op, memory);
  if (op->rows == 1) return multiply_single(op, &dots, tile0, tile1, block0, scratch.planes);
  // Blocks before this one have a row more than the others.
  const auto more = (int32_t)(op->rows % op->blocks);
  for (int32_t tile = tile0; tile < tile1; tile += 2) {
    const int32_t tiles = tile1 - tile < 2 ? 1 : 2;
    const PlanePanel panel = panel_of(op, &dots, tile, tiles, block1 - block0, &scratch);
    const bool direct = op->activation == kIdentity && !op->low_rank.rank &&
                        (int64_t)(tile + tiles) * kTile <= op->columns;
    for (int32_t first = block0, last; first < block1; first = last) {
      last = !direct ? first + 1 : first < more && more < block1 ? more : block1;
      const PanelDot dot = dots.panels[has_row_scales(op)][tiles - 1][block_at(op, first).rows - 1];
      if (direct) {
        multiply_direct(op, dot, &panel, tile, tiles, first, last - first);
      } else {
        multiply_by_way_of_sums(op, dot, &panel, tile, tiles, first);
      }
    }
  }
}

inline int32_t planes_offset(const MatMul* op) { return op->weight->offset; }

template <class Count, int MOST>
constexpr PlaneKernels plane_kernels(const char* isa) {
  return {{isa, kBlockRows, planes_offset, prepare_row_avx512, project_avx512, quantize_planes,
           nullptr, planes_scratch, multiply_planes<Count, MOST>},
          MOST};
}

}  // namespace
}  // namespace bitfold
