#include "weight_inputs.h"

#include <algorithm>

#include "masked_weight.h"

namespace bitfold::ops {
namespace {

constexpr float kLeastFactor = 1e-30f, kMostFactor = 1e30f;

void expect_count(const char* name, const Tensor& tensor, int64_t count) {
  if (tensor.count != count)
    refuse(std::string(name) + ": expected " + std::to_string(count) + " elements, found " +
           std::to_string(tensor.count));
}

void expect_type(const char* name, const Tensor& tensor, ONNXTensorElementDataType type,
                 const char* wanted) {
  if (tensor.type != type)
    refuse(std::string(name) + ": expected type " + wanted + ", found ONNX element type " +
           std::to_string(static_cast<int>(tensor.type)));
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void expect_shape(const char* name, const Tensor& tensor, const std::vector<int64_t>& shape) {
  if (tensor.data && tensor.shape != shape)
    refuse(std::string(name) + ": expected shape " + shape_text(shape) + ", found " +
           shape_text(tensor.shape));
}

// Tensors of the right size may still be laid out in another way.
void expect_shapes(const PackedWeight& w, const Tensor& packed, const Tensor& scales,
                   const Tensor& zeros, const Tensor& table) {
  const std::vector<int64_t> tiled = {w.tiles, w.groups, kTile};
  if (packed.data) expect_shape("packed", packed, {packed.count});
  expect_shape("scales", scales, tiled);
  expect_shape("zero_points", zeros, tiled);
  expect_shape("table", table, {int64_t{1} << w.bits});
}

WeightShape read_shape(const OrtApi* api, const OrtKernelInfo* info, bool paired) {
  WeightShape shape;
  shape.n = int_attribute(api, info, "N", 1, kLargest);
  shape.k = int_attribute(api, info, "K", 1, kLargest);
  if (paired && shape.n % 2 != 0)
    refuse("attribute 'N': expected an even number for swiglu, found " + std::to_string(shape.n));
  shape.tiles = paired ? 2 * ceil_div(shape.n / 2, kTile) : ceil_div(shape.n, kTile);
  return shape;
}

}  // namespace

Weight::Weight(const OrtApi* api, const OrtKernelInfo* info, WeightInputs where, bool paired,
               Layout last)
    : Weight(api, info, where, read_shape(api, info, paired), last) {}

Weight::Weight(const OrtApi* api, const OrtKernelInfo* info, WeightInputs where,
               WeightShape shape, Layout last)
    : where_(where) {
  const int64_t layout = int_attribute(api, info, "layout");
  if (layout < kDense || layout > last)
    refuse(std::string("attribute 'layout': expected ") + (last == kDense ? "3" : "3 or 4") +
           ", found " + std::to_string(layout) +
           (layout == 1 || layout == 2 ? " of an older bitfold: convert the model again" : ""));
  layout_ = static_cast<Layout>(layout);
  PackedWeight& w = weight_;
  w.n = shape.n;
  w.k = shape.k;
  w.bits = static_cast<int32_t>(int_attribute(api, info, "bits", 1, 8));
  const int64_t group_size = int_attribute(api, info, "group_size", 1, w.k);
  if (group_size != w.k && group_size % 16 != 0)
    refuse("attribute 'group_size': expected K = " + std::to_string(w.k) +
           " or a multiple of 16, found " + std::to_string(group_size));
  w.group_size = static_cast<int32_t>(group_size);
  w.groups = static_cast<int32_t>(ceil_div(w.k, group_size));
  w.tiles = static_cast<int32_t>(shape.tiles);
  w.chunks = static_cast<int32_t>(ceil_div(w.k, kChunk));
  w.offset = 1 << (w.bits - 1);
  w.least = -w.offset;
  w.most = w.offset - 1;
  for (int c = 0; c < 256; c++) w.operand[c] = static_cast<uint8_t>(c);

  const float factor = float_attribute(api, info, "scale_factor", 1);
  if (!(factor >= kLeastFactor && factor <= kMostFactor))
    refuse("attribute 'scale_factor': expected 1e-30 to 1e30, found " + std::to_string(factor));
  w.e4m3_unit = 256 * factor;
  has_factor_ = factor != 1;

  const Tensor packed = constant_input(api, info, where.packed);
  const Tensor scales = constant_input(api, info, where.scales);
  const Tensor zeros = constant_input(api, info, where.zero_points);
  const Tensor table = constant_input(api, info, where.table);
  bytes_ = packed.data ? packed.count : w.tiles * tile_bytes(&w);
  if (packed.data) set_packed(w, packed, &first_lines_);
  if (scales.data) set_scales(w, scales);
  if (zeros.data) set_zero_points(w, zeros);
  if (table.data) set_table(w, table);
  expect_shapes(w, packed, scales, zeros, table);
  complete_ = packed.data && scales.data;
  for (size_t index : {where.zero_points, where.table})
    if (has_input(api, info, index) && !constant_input(api, info, index).data) complete_ = false;
  if (complete_ && layout_ == kMasked) expect_zeros(w);
}

PackedWeight Weight::at(const OrtApi* api, const OrtKernelContext* context,
                        std::vector<int64_t>* first_lines) const {
  PackedWeight w = weight_;
  const Tensor packed = input(api, context, where_.packed);
  const Tensor scales = input(api, context, where_.scales);
  const Tensor zeros = input(api, context, where_.zero_points);
  const Tensor table = input(api, context, where_.table);
  if (!packed.data || !scales.data) refuse("expected inputs packed and scales, found none");
  set_packed(w, packed, first_lines);
  set_scales(w, scales);
  if (zeros.data) set_zero_points(w, zeros);
  if (table.data) set_table(w, table);
  expect_shapes(w, packed, scales, zeros, table);
  if (layout_ == kMasked) expect_zeros(w);
  return w;
}

void Weight::set_packed(PackedWeight& w, const Tensor& tensor,
                        std::vector<int64_t>* first_lines) const {
  expect_type("packed", tensor, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "uint8");
  if (layout_ == kMasked) return set_masked(w, tensor, first_lines);
  expect_count("packed", tensor, w.tiles * tile_bytes(&w));
  w.packed = static_cast<const uint8_t*>(tensor.data);
}

void Weight::set_scales(PackedWeight& w, const Tensor& tensor) const {
  switch (tensor.type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      w.scale_type = kScaleF16;
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      w.scale_type = kScaleBf16;
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      w.scale_type = kScaleE8m0;
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN:
      w.scale_type = kScaleE4m3;
      break;
    default:
      expect_type("scales", tensor, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                  "float16, float32, bfloat16, float8e4m3fn or uint8");
      w.scale_type = kScaleF32;
  }
  if (has_factor_ && w.scale_type != kScaleE4m3)
    refuse("attribute 'scale_factor': expected scales of type float8e4m3fn, found ONNX element "
           "type " + std::to_string(static_cast<int>(tensor.type)));
  expect_count("scales", tensor, static_cast<int64_t>(w.tiles) * w.groups * kTile);
  w.scales = tensor.data;
}

void Weight::set_zero_points(PackedWeight& w, const Tensor& tensor) const {
  expect_type("zero_points", tensor, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "int8");
  expect_count("zero_points", tensor, static_cast<int64_t>(w.tiles) * w.groups * kTile);
  w.zero_points = static_cast<const int8_t*>(tensor.data);
}

void Weight::set_table(PackedWeight& w, const Tensor& tensor) const {
  expect_count("table", tensor, int64_t{1} << w.bits);
  if (tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    const float* values = static_cast<const float*>(tensor.data);
    w.has_values = true;
    w.offset = 0;
    std::copy(values, values + tensor.count, w.values);
    return;
  }
  expect_type("table", tensor, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "int8 or float32");
  const int8_t* levels = static_cast<const int8_t*>(tensor.data);
  w.has_table = true;
  w.offset = 128;
  w.least = *std::min_element(levels, levels + tensor.count);
  w.most = *std::max_element(levels, levels + tensor.count);
  for (int c = 0; c < 1 << w.bits; c++) w.operand[c] = static_cast<uint8_t>(levels[c] + 128);
}

void expect_integers(const PackedWeight& w) {
  if (w.has_values) refuse("table: expected type int8 with int8 inputs or one channel a conv group, found float32");
}

}  // namespace bitfold::ops
