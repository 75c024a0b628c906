// Scalar kernels: the plainest code that follows the specification; any machine, any format.

#include <math.h>
#include <string.h>

#include "../scalar.h"
#include "masked.h"
#include "reference.h"

namespace bitfold {
namespace {

constexpr float kTiny = 1e-30f;
constexpr int kBlockRows = 1;  // a row's activations lie one after the other

// Largest |x|, or NaN when any value is NaN or infinite.
float reach(const float* x, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; i++) {
    if (!isfinite(x[i])) return NAN;
    most = fmaxf(most, fabsf(x[i]));
  }
  return most;
}

// Within reach of an int8; only a given scale lets values go beyond.
float clamped(float value) { return fminf(fmaxf(value, -127), 127); }

void quantize(const MatMul* op, int32_t index, const float* rows) {
  const PackedWeight* w = op->weight;
  Block b = block_at(op, index);
  int8_t* q = (int8_t*)b.q;
  memset(q, 0, padded_k(w) * b.rows);
  for (int32_t r = 0; r < b.rows; r++) {
    const float* x = rows + r * w->k;
    bool broken = isnan(reach(x, w->k));
    for (int32_t g = 0; g < w->groups; g++) {
      int64_t k0 = (int64_t)g * w->group_size;
      int64_t k1 = k0 + w->group_size < w->k ? k0 + w->group_size : w->k;
      bool whole = op->act_group_size >= w->k;
      float amax = broken ? 0 : whole ? reach(x, w->k) : reach(x + k0, k1 - k0);
      const float top = act_top(op);
      float inverse = amax < kTiny ? 0 : top / amax;
      float scale = amax < kTiny ? 0 : amax / top;
      if (op->act_scale > 0) scale = op->act_scale, inverse = 1 / op->act_scale;
      int32_t sum = 0;
      for (int64_t k = k0; k < k1; k++) {
        int32_t value = broken ? 0 : (int32_t)nearbyintf(clamped(x[k] * inverse));
        q[(k / 4 * b.rows + r) * 4 + k % 4] = (int8_t)value;
        sum += value;
      }
      b.scale[g * b.rows + r] = broken ? NAN : scale;
      b.start[g * b.rows + r] = -op->offset * sum;
      b.sum[g * b.rows + r] = (float)sum;
    }
  }
}

void interleave(const MatMul* op, int32_t index, const float* rows) {
  const PackedWeight* w = op->weight;
  Block b = block_at(op, index);
  memset(b.x, 0, padded_k(w) * b.rows * sizeof(float));
  for (int32_t r = 0; r < b.rows; r++) {
    const float* x = rows + r * w->k;
    bool broken = isnan(reach(x, w->k));
    b.scale[r] = broken ? NAN : 1;
    for (int32_t g = 0; g < w->groups; g++) {
      int64_t k0 = (int64_t)g * w->group_size;
      int64_t k1 = k0 + w->group_size < w->k ? k0 + w->group_size : w->k;
      float sum = 0;
      for (int64_t k = k0; k < k1; k++) {
        float value = broken ? 0 : x[k];
        b.x[k * b.rows + r] = value;
        sum += value;
      }
      b.sum[g * b.rows + r] = sum;
    }
  }
}

// The operand bytes of one lane of a tile, [k].
void decode_lane(const PackedWeight* w, int32_t tile, int32_t lane, uint8_t* operands) {
  const uint8_t* packed = w->packed + tile * tile_bytes(w);
  for (int64_t k = 0; k < w->k; k++) operands[k] = w->operand[code_at(w, packed, k, lane)];
}

// The same of a masked tile, whose lines are put into `lines`.
void decode_masked_lane(const PackedWeight* w, int32_t tile, int32_t lane, uint8_t* lines,
                        uint8_t* operands) {
  const uint8_t* masks = masks_of(w, tile, 0);
  put_lines(w, masks, w->chunks, first_line(w, tile), lines);
  const ZeroBytes zero = zero_bytes(w, w->offset);
  for (int64_t k = 0; k < w->k; k++) {
    const uint64_t mask = mask_at(masks, k / 4), bit = (uint64_t)1 << (lane * 4 + k % 4);
    // The codes that a step keeps are at its first places.
    const int place = __builtin_popcountll(mask & (bit - 1));
    const int64_t at = ((int64_t)tile * w->groups + k / w->group_size) * kTile + lane;
    operands[k] = mask & bit ? w->operand[code_at(w, lines, k / 4 * 4 + place % 4, place / 4)]
                             : (uint8_t)(zero.byte + (zero.zero_points ? zero.zero_points[at] : 0));
  }
}

// One output: the row of a block times one lane of a tile.
float dot(const MatMul* op, const Block* b, int32_t tile, int32_t lane, const uint8_t* operands) {
  const PackedWeight* w = op->weight;
  const int8_t* q = (const int8_t*)b->q;
  float total = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    const int64_t k0 = (int64_t)g * w->group_size;
    const int64_t k1 = k0 + w->group_size < w->k ? k0 + w->group_size : w->k;
    const int64_t at = ((int64_t)tile * w->groups + g) * kTile + lane;
    const float zero = w->zero_points ? w->zero_points[at] : 0;
    float part;
    if (op->int8) {
      int32_t exact = b->start[g];
      for (int64_t k = k0; k < k1; k++) exact += operands[k] * q[k];
      part = ((float)exact - zero * b->sum[g]) * scale_at(w, at) * b->scale[g];
    } else {
      float inexact = 0;
      for (int64_t k = k0; k < k1; k++) inexact += level_of(w, operands[k]) * b->x[k];
      part = (inexact - zero * b->sum[g]) * scale_at(w, at);
    }
    total += part;
  }
  return op->int8 ? total : total * b->scale[0];
}

void multiply(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0, int32_t block1,
              uint8_t* operands) {
  const PackedWeight* w = op->weight;
  uint8_t *up_operands = operands + w->k, *lines = up_operands + w->k;
  auto decode = [&](int32_t tile, int lane, uint8_t* to) {
    w->masks ? decode_masked_lane(w, tile, lane, lines, to) : decode_lane(w, tile, lane, to);
  };
  for (int32_t tile = tile0; tile < tile1; tile += is_paired(op) ? 2 : 1)
    for (int32_t lane = 0; lane < kTile; lane++) {
      const int64_t n = (int64_t)(is_paired(op) ? tile / 2 : tile) * kTile + lane;
      if (n >= op->columns) break;
      decode(tile, lane, operands);
      if (is_paired(op)) decode(tile + 1, lane, up_operands);
      for (int32_t index = block0; index < block1; index++) {
        const Block b = block_at(op, index);
        const float value = dot(op, &b, tile, lane, operands);
        const float up = is_paired(op) ? dot(op, &b, tile + 1, lane, up_operands) : 0;
        write_one(op, &b, tile, lane, value, up);
      }
    }
}

int32_t offset(const MatMul* op) { return op->weight->offset; }

int64_t scratch(const MatMul* op) { return 2 * op->weight->k + lines_scratch(op->weight); }

}  // namespace

const MatMulKernels kMatMulRef = {
    "ref", kBlockRows, offset, prepare_row_ref, project_ref,
    quantize, interleave, scratch, multiply};

}  // namespace bitfold
