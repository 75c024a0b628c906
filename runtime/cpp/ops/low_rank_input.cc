#include "low_rank_input.h"

#include <cstring>

namespace bitfold::ops {
namespace {

// Rows [n][rank] as the weight's rows are tiled: [T][rank][16], zeros behind the last.
template <class Number>
void tile_rows(const void* rows, int64_t n, int64_t rank, bool paired, uint8_t* tiled) {
  const int64_t half = n / 2;
  for (int64_t row = 0; row < n; row++) {
    const bool second = paired && row >= half;
    const int64_t place = second ? row - half : row;
    const int64_t tile = paired ? place / kTile * 2 + second : place / kTile;
    for (int64_t r = 0; r < rank; r++)
      std::memcpy(tiled + ((tile * rank + r) * kTile + place % kTile) * sizeof(Number),
                  static_cast<const Number*>(rows) + row * rank + r, sizeof(Number));
  }
}

}  // namespace

LowRankInput::LowRankInput(const OrtApi* api, const OrtKernelInfo* info, size_t down, size_t up,
                           const PackedWeight& weight, bool paired)
    : down_(down),
      up_(up),
      n_(weight.n),
      k_(weight.k),
      tiles_(weight.tiles),
      paired_(paired) {
  if (has_input(api, info, down) != has_input(api, info, up))
    refuse("expected both low_rank_down and low_rank_up or neither, found one");
  if (!has_input(api, info, down)) return;
  const Tensor constant_down = constant_input(api, info, down);
  const Tensor constant_up = constant_input(api, info, up);
  complete_ = constant_down.data && constant_up.data;
  if (complete_) held_ = checked(constant_down, constant_up);
}

HeldLowRank LowRankInput::at(const OrtApi* api, const OrtKernelContext* context) const {
  return checked(input(api, context, down_), input(api, context, up_));
}

HeldLowRank LowRankInput::checked(const Tensor& down, const Tensor& up) const {
  const bool half = down.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  if (!half && down.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
    refuse("low_rank_down: expected type float16 or float32, found ONNX element type " +
           std::to_string(static_cast<int>(down.type)));
  if (up.type != down.type)
    refuse("low_rank_up: expected low_rank_down's type, found ONNX element type " +
           std::to_string(static_cast<int>(up.type)));
  if (down.shape.size() != 2 || down.shape[0] < 1 || down.shape[0] > kMostRank ||
      down.shape[1] != k_)
    refuse("low_rank_down: expected shape [R, " + std::to_string(k_) + "], R from 1 to " +
           std::to_string(kMostRank) + ", found " + shape_text(down.shape));
  const std::vector<int64_t> shape = {n_, down.shape[0]};
  if (up.shape != shape)
    refuse("low_rank_up: expected shape " + shape_text(shape) + ", found " + shape_text(up.shape));
  HeldLowRank held;
  held.up.resize(static_cast<size_t>(tiles_ * kTile * shape[1] * (half ? 2 : 4) + kLine));
  uint8_t* tiled = held.up.data();
  tiled += -reinterpret_cast<uintptr_t>(tiled) % kLine;
  (half ? tile_rows<uint16_t> : tile_rows<float>)(up.data, n_, shape[1], paired_, tiled);
  held.value.rank = static_cast<int32_t>(shape[1]);
  held.value.half = half;
  held.value.down = down.data;
  held.value.up = tiled;
  return held;
}

}  // namespace bitfold::ops
