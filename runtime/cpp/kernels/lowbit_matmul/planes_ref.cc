// Scalar bit-plane products: any machine.

#include <math.h>
#include <string.h>

#include "../scalar.h"
#include "planes.h"
#include "reference.h"

namespace bitfold {
namespace {

constexpr int kBlockRows = 1;

// The planes of one chunk of one lane.
void weight_planes(const PackedWeight* w, const uint8_t* tile, int64_t chunk, int lane,
                   uint32_t* planes) {
  for (int32_t i = 0; i < w->bits; i++) planes[i] = 0;
  for (int bit = 0; bit < kChunk; bit++) {
    const int code = code_at(w, tile, chunk * kChunk + channel_of_bit(w->bits, bit), lane);
    for (int32_t i = 0; i < w->bits; i++) planes[i] |= (uint32_t)(code >> i & 1) << bit;
  }
}

// Turns a block's bytes [Kpad] into planes, in place: a chunk's planes lie before its bytes.
void quantize(const MatMul* op, int32_t index, const float* x) {
  const PackedWeight* w = op->weight;
  if (op->act_bits == 1) {
    binarize(op, index, x);
  } else {
    kMatMulRef.quantize(op, index, x);
  }
  Block b = block_at(op, index);
  for (int32_t chunk = 0; chunk < w->chunks; chunk++) {
    int8_t q[kChunk];
    memcpy(q, (const int8_t*)b.q + chunk * kChunk, kChunk);
    uint32_t* planes = (uint32_t*)b.q + (int64_t)chunk * op->act_bits;
    for (int32_t j = 0; j < op->act_bits; j++) {
      planes[j] = 0;
      for (int bit = 0; bit < kChunk; bit++) {
        const int value = q[channel_of_bit(w->bits, bit)];
        const bool set = op->act_bits == 1 ? value > 0 : value >> j & 1;
        planes[j] |= (uint32_t)set << bit;
      }
    }
  }
  for (int32_t g = 0; g < w->groups; g++)
    b.start[g] = start_of(op, (int32_t)b.sum[g], isnan(b.scale[g]) ? 0 : group_count(w, g));
}

int count_bits(uint32_t word) {
  int count = 0;
  for (; word; word &= word - 1) count++;
  return count;
}

// One output: the row of a block times one lane of a tile.
float dot(const MatMul* op, const Block* b, int32_t tile, int lane) {
  const PackedWeight* w = op->weight;
  const uint8_t* packed = w->packed + tile * tile_bytes(w);
  const uint32_t* acts = (const uint32_t*)b->q;
  const int32_t each = (w->group_size + kChunk - 1) / kChunk;
  float total = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    int32_t exact = b->start[g];
    const int32_t end = (g + 1) * each < w->chunks ? (g + 1) * each : w->chunks;
    for (int32_t chunk = g * each; chunk < end; chunk++) {
      uint32_t planes[4];
      weight_planes(w, packed, chunk, lane, planes);
      for (int32_t i = 0; i < w->bits; i++)
        for (int32_t j = 0; j < op->act_bits; j++) {
          const uint32_t a = acts[(int64_t)chunk * op->act_bits + j];
          const uint32_t both = op->act_bits == 1 ? planes[i] ^ a : planes[i] & a;
          exact += factor_of(op, i, j) * count_bits(both);
        }
    }
    const int64_t at = ((int64_t)tile * w->groups + g) * kTile + lane;
    const float zero = w->zero_points ? w->zero_points[at] : 0;
    total += ((float)exact - zero * b->sum[g]) * scale_at(w, at) * b->scale[g];
  }
  return total;
}

void multiply(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0, int32_t block1,
              uint8_t*) {
  for (int32_t tile = tile0; tile < tile1; tile += is_paired(op) ? 2 : 1)
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      for (int lane = 0; lane < kTile; lane++) {
        const float value = dot(op, &b, tile, lane);
        const float up = is_paired(op) ? dot(op, &b, tile + 1, lane) : 0;
        write_one(op, &b, tile, lane, value, up);
      }
    }
}

int32_t offset(const MatMul* op) { return op->weight->offset; }

int64_t scratch(const MatMul*) { return 0; }

}  // namespace

const PlaneKernels kPlanesRef = {
    {"ref", kBlockRows, offset, prepare_row_ref, project_ref, quantize, nullptr, scratch,
     multiply}, 16};

}  // namespace bitfold
