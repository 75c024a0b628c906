#include "lowbit_gather.h"

#include "../scalar.h"

namespace bitfold {
namespace {

// The codes of one lane in a chunk, [32].
void lane_codes(int bits, const uint8_t* lane, uint8_t* codes) {
  for (int k = 0; k < kChunk; k++) codes[k] = (uint8_t)code_in(bits, lane + k % 4, k / 4);
}

}  // namespace

void gather_row_ref(const PackedWeight* w, int64_t row, float* out) {
  const int64_t tile = row / kTile, lane = row % kTile;
  const uint8_t* packed = w->packed + tile * tile_bytes(w) + lane * 4;
  uint8_t codes[kChunk];
  for (int64_t k0 = 0; k0 < w->k; k0 += kChunk, packed += kLine * w->bits) {
    lane_codes(w->bits, packed, codes);
    const int64_t end = k0 + kChunk < w->k ? k0 + kChunk : w->k;
    for (int64_t k = k0; k < end;) {
      // A run of one group within the chunk.
      const int64_t group = k / w->group_size;
      const int64_t stop = (group + 1) * w->group_size < end ? (group + 1) * w->group_size : end;
      const int64_t at = (tile * w->groups + group) * kTile + lane;
      const float scale = scale_at(w, at);
      const float zero = w->zero_points ? w->zero_points[at] : 0;
      for (; k < stop; k++) out[k] = scale * (level_of(w, w->operand[codes[k - k0]]) - zero);
    }
  }
}

}  // namespace bitfold
