// Rows of a packed weight for a vector type V of one ISA.
//
// V has kLanes of float (16 or fewer), set, sub, mul, store, store_part (the first lanes alone),
// floats_of (kLanes bytes as floats), look_up (kLanes bytes in a table of floats or of bytes) and
// codes<BITS> (those of a lane in a chunk, [32]).
//
// Internal linkage throughout: only translation units built for an ISA include this.
#pragma once

#include "../scalar.h"
#include "lowbit_gather.h"

namespace bitfold {
namespace {

template <class V>
inline typename V::Vector levels_of(const PackedWeight* w, const uint8_t* codes) {
  if (w->has_values) return V::look_up(w->values, codes);
  if (w->has_table) return V::look_up(w->operand, codes);
  return V::floats_of(codes);
}

template <class V, int BITS>
void gather_row_of(const PackedWeight* w, int64_t row, float* out) {
  const int64_t tile = row / kTile, lane = row % kTile;
  const uint8_t* packed = w->packed + tile * tile_bytes(w) + lane * 4;
  int64_t group_end = 0, at = tile * w->groups * kTile + lane;
  typename V::Vector scale = V::set(0), zero = V::set(0);
  alignas(32) uint8_t codes[kChunk];
  for (int64_t k = 0; k < w->k; k += kChunk, packed += kLine * BITS) {
    V::template codes<BITS>(packed, codes);
    for (int i = 0; i < kChunk && k + i < w->k; i += V::kLanes) {
      if (k + i == group_end) {  // groups are multiples of 16, or all there is
        scale = V::set(scale_at(w, at));
        zero = V::set((float)(w->offset + (w->zero_points ? w->zero_points[at] : 0)));
        group_end += w->group_size;
        at += kTile;
      }
      const typename V::Vector value = V::mul(scale, V::sub(levels_of<V>(w, codes + i), zero));
      const int64_t left = w->k - k - i;
      if (left >= V::kLanes) {
        V::store(out + k + i, value);
      } else {
        V::store_part(out + k + i, value, left);
      }
    }
  }
}

template <class V>
void gather_row_with(const PackedWeight* w, int64_t row, float* out) {
  static const GatherRow of_bits[] = {gather_row_of<V, 1>, gather_row_of<V, 2>,
                                      gather_row_of<V, 3>, gather_row_of<V, 4>,
                                      gather_row_of<V, 5>, gather_row_of<V, 6>,
                                      gather_row_of<V, 7>, gather_row_of<V, 8>};
  of_bits[w->bits - 1](w, row, out);
}

}  // namespace
}  // namespace bitfold
