// NEON with sdot: a tile and up to four rows at a time, 16 sums of 4 outputs in registers; one
// sdot multiplies four input channels of 4 outputs by those of one row, picked from a register
// that holds four rows' or four steps' activations.  Up to kFusedRows rows codes are decoded on
// their way to the product; above, a tile is decoded once for all blocks of rows.

#include "neon.h"

namespace bitfold {
namespace {

constexpr int kBlockRows = 4;
constexpr int kFusedRows = 8;

// One row would be four chains of dependent sums: they are split in two.
template <int R>
constexpr int kSplit = R == 1 ? 2 : 1;

// Activations of 16 input channels and R rows: [4 steps][R] int32, or of 4 and R: [4][R] floats.
template <int R>
struct Acts {
  int32x4_t part[R];
  BITFOLD_INLINE explicit Acts(const int32_t* q) {
    for (int i = 0; i < R; i++) part[i] = vld1q_s32(q + 4 * i);
  }
};

// Add step S of a chunk for one quarter of the lanes, row by row.
template <int R, int S, int ROW = 0>
BITFOLD_INLINE void add_rows(int32x4_t (&acc)[R], int8x16_t u, const Acts<R>& acts) {
  constexpr int kAt = S % 4 * R + ROW;
  const int8x16_t a = vreinterpretq_s8_s32(acts.part[kAt / 4]);
  acc[ROW] = vdotq_laneq_s32(acc[ROW], u, a, kAt % 4);
  if constexpr (ROW + 1 < R) add_rows<R, S, ROW + 1>(acc, u, acts);
}

// Add the steps from S to the end of a half chunk.
template <int BITS, bool TABLE, int R, int S>
BITFOLD_INLINE void add_steps(int32x4_t (&acc)[kSplit<R>][4][R], const uint8_t* chunk,
                              const Acts<R>& acts, const Levels<BITS, TABLE>& levels) {
  for (int quarter = 0; quarter < 4; quarter++)
    add_rows<R, S>(acc[S % kSplit<R>][quarter],
                   operands<BITS, TABLE, S>(chunk + 16 * quarter, levels), acts);
  if constexpr (S % 4 < 3) add_steps<BITS, TABLE, R, S + 1>(acc, chunk, acts, levels);
}

// Sums [R][16] of one tile, whose bytes (packed, or a decoded panel) are given.
template <int BITS, bool TABLE, int R>
void dot_int8(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes, float* sums) {
  const PackedWeight* w = op->weight;
  const Levels<BITS, TABLE> levels(w);
  const int64_t halves = (w->k + 15) / 16, group_halves = (w->group_size + 15) / 16;
  const int32_t *q = b->q, *start = b->start;
  const float *scale_a = b->scale, *sum_a = b->sum;
  for (int i = 0; i < R * kTile; i += 4) vst1q_f32(sums + i, vdupq_n_f32(0));
  int64_t half = 0;
  for (int32_t g = 0; g < w->groups; g++, start += R, scale_a += R, sum_a += R) {
    int32x4_t acc[kSplit<R>][4][R];
    for (int quarter = 0; quarter < 4; quarter++)
      for (int r = 0; r < R; r++) {
        acc[0][quarter][r] = vdupq_n_s32(start[r]);
        if (kSplit<R> > 1) acc[kSplit<R> - 1][quarter][r] = vdupq_n_s32(0);
      }
    const int64_t end = half + group_halves < halves ? half + group_halves : halves;
    for (; half < end; half++, q += 4 * R) {
      if (half & 1) {
        add_steps<BITS, TABLE, R, 4>(acc, bytes, Acts<R>(q), levels);
        bytes += lines_of(BITS) * kLine;
      } else {
        add_steps<BITS, TABLE, R, 0>(acc, bytes, Acts<R>(q), levels);
      }
    }
    for (int quarter = 0; quarter < 4; quarter++) {
      const int64_t at = ((int64_t)tile * w->groups + g) * 4 + quarter;
      const float32x4_t scale = scales_at(w, at);
      const float32x4_t zero = w->zero_points ? zeros_at(w, at) : vdupq_n_f32(0);
      for (int r = 0; r < R; r++) {
        int32x4_t exact = acc[0][quarter][r];
        if (kSplit<R> > 1) exact = vaddq_s32(exact, acc[kSplit<R> - 1][quarter][r]);
        const float32x4_t part = vfmsq_n_f32(vcvtq_f32_s32(exact), zero, sum_a[r]);
        float* sum = sums + r * kTile + 4 * quarter;
        vst1q_f32(sum, vfmaq_n_f32(vld1q_f32(sum), vmulq_f32(part, scale), scale_a[r]));
      }
    }
  }
}

// Add input channel J of a step for one quarter of the lanes, row by row.
template <int R, int J, int ROW = 0>
BITFOLD_INLINE void add_rows(float32x4_t (&acc)[R], float32x4_t level, const float32x4_t* x) {
  constexpr int kAt = J * R + ROW;
  acc[ROW] = vfmaq_laneq_f32(acc[ROW], level, x[kAt / 4], kAt % 4);
  if constexpr (ROW + 1 < R) add_rows<R, J, ROW + 1>(acc, level, x);
}

template <int R, int J = 0>
BITFOLD_INLINE void add_channels(float32x4_t (&acc)[R], int32x4_t levels, const float32x4_t* x) {
  int32x4_t level = levels;
  if constexpr (J < 3) level = vshlq_n_s32(level, 24 - 8 * J);
  add_rows<R, J>(acc, vcvtq_f32_s32(vshrq_n_s32(level, 24)), x);
  if constexpr (J < 3) add_channels<R, J + 1>(acc, levels, x);
}

template <int R>
void dot_float(const MatMul* op, const Block* b, int32_t tile, const uint8_t* panel,
               float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t steps = (w->k + 15) / 16 * 4, group_steps = (w->group_size + 15) / 16 * 4;
  const int8x16_t offset = vdupq_n_s8((int8_t)op->offset);
  const int8_t* line = (const int8_t*)panel;
  const float* from = b->x;
  for (int i = 0; i < R * kTile; i += 4) vst1q_f32(sums + i, vdupq_n_f32(0));
  int64_t step = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    float32x4_t acc[4][R];
    for (int quarter = 0; quarter < 4; quarter++)
      for (int r = 0; r < R; r++) acc[quarter][r] = vdupq_n_f32(0);
    const int64_t end = step + group_steps < steps ? step + group_steps : steps;
    for (; step < end; step++, line += kLine, from += 4 * R) {
      float32x4_t x[R];
      for (int i = 0; i < R; i++) x[i] = vld1q_f32(from + 4 * i);
      for (int quarter = 0; quarter < 4; quarter++)
        add_channels<R>(acc[quarter],
                        vreinterpretq_s32_s8(vsubq_s8(vld1q_s8(line + 16 * quarter), offset)), x);
    }
    for (int quarter = 0; quarter < 4; quarter++) {
      const int64_t at = ((int64_t)tile * w->groups + g) * 4 + quarter;
      const float32x4_t scale = scales_at(w, at);
      const float32x4_t zero = w->zero_points ? zeros_at(w, at) : vdupq_n_f32(0);
      for (int r = 0; r < R; r++) {
        const float32x4_t part = vfmsq_n_f32(acc[quarter][r], zero, b->sum[g * R + r]);
        float* sum = sums + r * kTile + 4 * quarter;
        vst1q_f32(sum, vfmaq_f32(vld1q_f32(sum), part, scale));
      }
    }
  }
  for (int r = 0; r < R; r++)  // one, or NaN
    for (int lane = 0; lane < kTile; lane += 4) {
      float* sum = sums + r * kTile + lane;
      vst1q_f32(sum, vmulq_n_f32(vld1q_f32(sum), b->scale[r]));
    }
}

typedef void (*Dot)(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
                    float* sums);

template <int BITS, bool TABLE>
struct Int8 {
  static constexpr Dot kDots[kBlockRows] = {dot_int8<BITS, TABLE, 1>, dot_int8<BITS, TABLE, 2>,
                                            dot_int8<BITS, TABLE, 3>, dot_int8<BITS, TABLE, 4>};
};

constexpr Dot kFloat[kBlockRows] = {dot_float<1>, dot_float<2>, dot_float<3>, dot_float<4>};

// Kernels [kBlockRows] of packed bytes, or null where a decoded panel serves better: tables of
// more than 16 levels take several look-ups.
const Dot* fused(const MatMul* op) {
  static const Dot* const plain[] = {Int8<1, false>::kDots, Int8<2, false>::kDots,
                                     Int8<3, false>::kDots, Int8<4, false>::kDots,
                                     Int8<5, false>::kDots, Int8<6, false>::kDots,
                                     Int8<7, false>::kDots, Int8<8, false>::kDots};
  static const Dot* const table[] = {Int8<1, true>::kDots, Int8<2, true>::kDots,
                                     Int8<3, true>::kDots, Int8<4, true>::kDots};
  const PackedWeight* w = op->weight;
  if (!op->int8 || op->rows > kFusedRows || w->masks || (w->has_table && w->bits > 4)) return nullptr;
  return (w->has_table ? table : plain)[w->bits - 1];
}

void multiply(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0, int32_t block1,
              uint8_t* scratch) {
  const PackedWeight* w = op->weight;
  if (w->has_values) return multiply_values_neon(op, tile0, tile1, block0, block1, scratch);
  alignas(16) float sums[2 * kBlockRows * kTile];
  const int32_t by = is_paired(op) ? 2 : 1;
  const Decode decode_tile = decoder(w);
  const Dot* of_packed = fused(op);
  const Dot* dots = of_packed ? of_packed : op->int8 ? Int8<kDecoded, false>::kDots : kFloat;
  for (int32_t tile = tile0; tile < tile1; tile += by) {
    const uint8_t* bytes[2];
    for (int32_t t = 0; t < by; t++) {
      uint8_t* panel = scratch + t * padded_k(w) * kTile;
      bytes[t] = of_packed ? w->packed + (tile + t) * tile_bytes(w) : panel;
      if (of_packed) continue;
      decode_tile(w, dense_chunks(w, tile + t, scratch + by * padded_k(w) * kTile), panel);
      if (w->masks)
        spread_operands(op->masked, w, tile + t, 0, w->chunks, zero_bytes(w, op->offset), panel);
    }
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      float* up_sums = sums + (by - 1) * b.rows * kTile;
      for (int32_t t = 0; t < by; t++)
        dots[b.rows - 1](op, &b, tile + t, bytes[t], t ? up_sums : sums);
      write(op, &b, tile, sums, up_sums);
    }
  }
}

int32_t offset(const MatMul* op) { return signed_offset(op->weight); }

int64_t scratch(const MatMul* op) {
  if (op->weight->has_values) return values_scratch(op);
  return (is_paired(op) ? 2 : 1) * padded_k(op->weight) * kTile + lines_scratch(op->weight);
}

}  // namespace

const MatMulKernels kMatMulNeon = {
    "neon", kBlockRows, offset, prepare_row_neon, project_neon,
    quantize_neon, interleave_neon, scratch, multiply};

}  // namespace bitfold
