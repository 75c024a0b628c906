#include "masked_weight.h"

#include <algorithm>

#include "../kernels/lowbit_matmul/masked.h"

namespace bitfold::ops {

void set_masked(PackedWeight& w, const Tensor& tensor, std::vector<int64_t>* first_lines) {
  const int64_t masks = static_cast<int64_t>(w.tiles) * w.chunks * kLine;
  if (tensor.count < masks + kLine)
    refuse("packed: expected at least " + std::to_string(masks + kLine) +
           " elements for masks and padding, found " + std::to_string(tensor.count));
  w.masks = static_cast<const uint8_t*>(tensor.data);
  w.packed = w.masks + masks;
  first_lines->clear();
  int64_t at = 0;
  for (int32_t tile = 0; tile < w.tiles; tile++) {
    first_lines->push_back(at);
    for (int32_t chunk = 0; chunk < w.chunks; chunk++) {
      int lengths[8];
      line_lengths(w.bits, masks_of(&w, tile, chunk), lengths);
      for (int line = 0; line < w.bits; line++) at += lengths[line];
    }
  }
  if (tensor.count != masks + at + kLine)
    refuse("packed: expected " + std::to_string(masks + at + kLine) +
           " elements for these masks, found " + std::to_string(tensor.count));
  w.first_lines = first_lines->data();
}

void expect_zeros(PackedWeight& w) {
  if (w.has_values) {
    if (w.zero_points) refuse("zero_points: expected none with layout 4 and a table of float32");
    const float *begin = w.values, *end = begin + (1 << w.bits);
    const float* zero = std::find(begin, end, 0.0f);
    if (zero == end) refuse("table: expected a level of 0 with layout 4, found none");
    w.zero_code = static_cast<uint8_t>(zero - begin);
    return;
  }
  if (!w.zero_points || w.has_table) return;
  const int64_t count = static_cast<int64_t>(w.tiles) * w.groups * kTile;
  for (int64_t i = 0; i < count; i++)
    if (w.zero_points[i] < w.least || w.zero_points[i] > w.most)
      refuse("zero_points: expected " + std::to_string(w.least) + " to " + std::to_string(w.most) +
             " with layout 4, found " + std::to_string(w.zero_points[i]));
}

}  // namespace bitfold::ops
