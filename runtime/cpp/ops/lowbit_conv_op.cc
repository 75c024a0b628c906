// LowBitConv for ORT: what runtime/ops/__init__.py specifies.

#include <algorithm>
#include <cmath>
#include <limits>

#include "../kernels/dispatch.h"
#include "custom_ops.h"
#include "weight_inputs.h"

namespace bitfold::ops {
namespace {

constexpr const char* kName = "LowBitConv";
enum Input : size_t { kX, kPacked, kScales, kZeroPoints, kTable, kBias, kResidual, kInputs };
// Beyond this many inputs a group's int32 sum could overflow: 65536 * 127 * 255 < 2^31.
constexpr int64_t kMostPerGroup = 65536;
// Strides, pads, dilations and windows go up to this: no sum of their products overflows.
constexpr int64_t kMostSpatial = 1 << 20;
constexpr float kInfinite = std::numeric_limits<float>::infinity();

// What the attributes say about the convolution, all checked; `rank` spatial axes.
struct Geometry {
  size_t rank;
  Conv conv{};
  int64_t pad_ends[2] = {0, 0};

  Geometry(const OrtApi* api, const OrtKernelInfo* info) {
    conv.outputs = int_attribute(api, info, "N", 1, kLargest);
    conv.channels = int_attribute(api, info, "C", 1, kLargest);
    conv.groups = int_attribute(api, info, "groups", 1, kLargest);
    for (const auto& [name, count] : {std::pair{"N", conv.outputs}, {"C", conv.channels}})
      if (count % conv.groups != 0)
        refuse("attribute 'groups': expected a divisor of " + std::string(name) + " = " +
               std::to_string(count) + ", found " + std::to_string(conv.groups));
    const std::vector<int64_t> kernel = spatial(api, info, "kernel_shape", 0, 1);
    rank = kernel.size();
    const std::vector<int64_t> strides = spatial(api, info, "strides", rank, 1);
    const std::vector<int64_t> dilations = spatial(api, info, "dilations", rank, 1);
    const std::vector<int64_t> pads = spatial(api, info, "pads", 2 * rank, 0);
    for (size_t i = 0; i < 2; i++) {
      conv.kernel[i] = conv.stride[i] = conv.dilation[i] = 1;
      conv.pad[i] = 0;
    }
    for (size_t i = 0; i < rank; i++) {
      const size_t axis = 2 - rank + i;
      conv.kernel[axis] = kernel[i];
      conv.stride[axis] = strides[i];
      conv.dilation[axis] = dilations[i];
      conv.pad[axis] = pads[i];
      pad_ends[axis] = pads[rank + i];
    }
    if (columns() > kLargest)
      refuse("attributes 'kernel_shape', 'C' and 'groups': expected at most " +
             std::to_string(kLargest) + " inputs of an output, found " +
             std::to_string(columns()));
    if (shape().tiles > kLargest)
      refuse("attribute 'groups': expected at most " + std::to_string(kLargest) +
             " tiles, found " + std::to_string(shape().tiles));
    read_activation(api, info);
  }

  int64_t depth() const { return conv.channels / conv.groups; }
  int64_t taps() const { return conv.kernel[0] * conv.kernel[1]; }
  bool depthwise() const { return depth() == 1; }
  // Packed input channels of a tap.
  int64_t padded_depth() const {
    return taps() == 1 || depthwise() ? depth() : (depth() + 15) / 16 * 16;
  }
  int64_t columns() const { return taps() * padded_depth(); }

  // Input channels of a whole tap as a weight group counts them.
  int64_t whole_group() const { return depthwise() ? taps() : padded_depth(); }

  // Refuses groups that straddle taps.
  const Geometry& check_group_size(int64_t found) const {
    const bool divides = found > 0 && found % 16 == 0 && depth() % found == 0;
    if (found != whole_group() && !divides)
      refuse("attribute 'group_size': expected " + std::to_string(whole_group()) +
             " or a multiple of 16 that divides " + std::to_string(depth()) + ", found " +
             std::to_string(found));
    return *this;
  }

  // Rows of one bank; columns; tiles of all banks.
  WeightShape shape() const {
    const int64_t banks = depthwise() ? 1 : conv.groups, rows = conv.outputs / banks;
    return {rows, columns(), banks * ((rows + kTile - 1) / kTile)};
  }

  // The spatial shape of Y for that of X.  Refuses windows that do not fit.
  void set_sizes(const int64_t* size) {
    for (size_t axis = 0; axis < 2; axis++) {
      conv.size[axis] = axis + rank < 2 ? 1 : size[axis + rank - 2];
      const int64_t window = conv.dilation[axis] * (conv.kernel[axis] - 1) + 1;
      const int64_t room = conv.size[axis] + conv.pad[axis] + pad_ends[axis];
      if (room < window)
        refuse("X: expected a padded spatial size of at least " + std::to_string(window) +
               ", the window's, found " + std::to_string(room));
      conv.out[axis] = (room - window) / conv.stride[axis] + 1;
    }
  }

 private:
  // A list of `count` ints, of one or two where that is 0.
  static std::vector<int64_t> spatial(const OrtApi* api, const OrtKernelInfo* info,
                                      const char* name, size_t count, int64_t least) {
    std::vector<int64_t> values = ints_attribute(api, info, name);
    const bool fits = count ? values.size() == count : values.size() == 1 || values.size() == 2;
    if (!fits)
      refuse(std::string("attribute '") + name + "': expected " +
             (count ? std::to_string(count) : std::string("1 or 2")) + " ints, found " +
             std::to_string(values.size()));
    for (int64_t value : values)
      if (value < least || value > kMostSpatial)
        refuse(std::string("attribute '") + name + "': expected " + std::to_string(least) +
               " to " + std::to_string(kMostSpatial) + ", found " + std::to_string(value));
    return values;
  }

  void read_activation(const OrtApi* api, const OrtKernelInfo* info) {
    const std::string activation = string_attribute(api, info, "activation");
    conv.least = -kInfinite;
    conv.most = kInfinite;
    if (activation == "relu") {
      conv.least = 0;
    } else if (activation == "clip") {
      conv.least = float_attribute(api, info, "clip_min");
      conv.most = float_attribute(api, info, "clip_max");
      if (!(conv.least <= conv.most))
        refuse("attributes 'clip_min' and 'clip_max': expected clip_min <= clip_max, found " +
               std::to_string(conv.least) + " and " + std::to_string(conv.most));
    } else if (activation == "hardswish") {
      conv.hardswish = true;
    } else if (activation != "none") {
      refuse("attribute 'activation': expected 'none', 'relu', 'clip' or 'hardswish', found '" +
             activation + "'");
    }
    conv.scale = float_attribute(api, info, "out_scale", 1);
    conv.shift = float_attribute(api, info, "out_shift", 0);
    for (float value : {conv.scale, conv.shift})
      if (!std::isfinite(value))
        refuse("attributes 'out_scale' and 'out_shift': expected finite numbers, found " +
               std::to_string(value));
  }
};

class ConvKernel {
 public:
  ConvKernel(const OrtApi* api, const OrtKernelInfo* info)
      : api_(api),
        geometry_(api, info),
        weight_(api, info, {kPacked, kScales, kZeroPoints, kTable},
                geometry_.check_group_size(int_attribute(api, info, "group_size")).shape()) {
    read_acts(info);
    const Tensor bias = constant_input(api, info, kBias);
    if (bias.data) geometry_.conv.bias = checked_bias(bias);
    bias_complete_ = bias.data || !has_input(api, info, kBias);
  }

  void compute(OrtKernelContext* context) const {
    const Tensor x = input(api_, context, kX);
    Geometry geometry = geometry_;
    Conv& conv = geometry.conv;
    PackedWeight own;
    conv.weight = &weight_.value();
    if (!weight_.complete()) {
      own = weight_.at(api_, context);
      if (takes_integers()) expect_integers(own);
      conv.weight = &own;
    }
    if (!bias_complete_) {
      const Tensor bias = input(api_, context, kBias);
      conv.bias = bias.data ? checked_bias(bias) : nullptr;
    }
    if (x.shape.size() != geometry.rank + 2 || x.shape[1] != conv.channels)
      refuse("X: expected [n, " + std::to_string(conv.channels) + "] and " +
             std::to_string(geometry.rank) + " spatial sizes, found " + shape_text(x.shape));
    geometry.set_sizes(x.shape.data() + 2);
    if (conv.size[0] > 0 && conv.size[1] > kLargest / conv.size[0])
      refuse("X: expected at most " + std::to_string(kLargest) + " pixels, found " +
             shape_text(x.shape));
    conv.images = x.shape[0];
    conv.x = static_cast<const float*>(x.data);
    std::vector<int64_t> shape = {conv.images, conv.outputs};
    for (size_t axis = 2 - geometry.rank; axis < 2; axis++) shape.push_back(conv.out[axis]);
    const Tensor residual = input(api_, context, kResidual);
    if (residual.data) {
      if (residual.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || residual.shape != shape)
        refuse("residual: expected float32 of Y's shape, " + shape_text(shape) + ", found " +
               shape_text(residual.shape));
      conv.residual = static_cast<const float*>(residual.data);
    }
    conv.y = output(api_, context, shape.data(), shape.size());
    Threads threads{api_, context};
    if (!run_conv(kernels()->conv, kernels()->matmul, conv, parallel_for, &threads))
      refuse("no memory for X of shape " + shape_text(x.shape));
  }

 private:
  void read_acts(const OrtKernelInfo* info) {
    const std::string acts = string_attribute(api_, info, "acts");
    if (acts != "none" && acts != "int8")
      refuse("attribute 'acts': expected 'none' or 'int8', found '" + acts + "'");
    Conv& conv = geometry_.conv;
    conv.int8 = acts == "int8";
    conv.act_group_size = int_attribute(api_, info, "act_group_size");
    if (takes_integers()) expect_integers(weight_.value());
    if (!conv.int8) return;
    const int64_t depth = geometry_.depth();
    const int64_t run = std::min<int64_t>(weight_.value().group_size, depth);
    if (geometry_.depthwise())
      refuse("attribute 'acts': expected 'none' with one channel a conv group, found 'int8'");
    if (conv.act_group_size != depth && conv.act_group_size != run)
      refuse("attribute 'act_group_size': expected C / groups = " + std::to_string(depth) +
             " or group_size = " + std::to_string(run) + ", found " +
             std::to_string(conv.act_group_size));
    if (weight_.value().group_size > kMostPerGroup)
      refuse("attribute 'group_size': expected at most " + std::to_string(kMostPerGroup) +
             " with int8 activations, found " + std::to_string(weight_.value().group_size));
  }

  bool takes_integers() const { return geometry_.conv.int8 || geometry_.depthwise(); }

  const float* checked_bias(const Tensor& bias) const {
    const std::vector<int64_t> shape = {geometry_.conv.outputs};
    if (bias.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || bias.shape != shape)
      refuse("bias: expected float32 of shape " + shape_text(shape) + ", found " +
             shape_text(bias.shape));
    return static_cast<const float*>(bias.data);
  }

  const OrtApi* api_;
  Geometry geometry_;
  Weight weight_;
  bool bias_complete_ = false;
};

OrtStatus* BITFOLD_ORT_CALL create(const OrtCustomOp*, const OrtApi* api,
                                   const OrtKernelInfo* info, void** kernel) {
  return guarded(api, kName, [&] { *kernel = new KernelOf<ConvKernel>(api, info); });
}

ONNXTensorElementDataType BITFOLD_ORT_CALL input_type(const OrtCustomOp*, size_t index) {
  switch (index) {
    case kPacked:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case kScales:
    case kTable:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // one of several: checked at creation
    case kZeroPoints:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    default:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
}

OrtCustomOpInputOutputCharacteristic BITFOLD_ORT_CALL input_kind(const OrtCustomOp*,
                                                                 size_t index) {
  return index < kZeroPoints ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

// What attributes the kernel will refuse, inference passes over.  A size that is only a symbol
// gives a symbol that says how it was made: equal ones stand for equal sizes.
OrtStatus* BITFOLD_ORT_CALL infer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi* api = api_of(op);
  return guarded(api, kName, [&] {
    SymbolicShape shape;
    const int64_t n = inferred_int(api, context, "N");
    const std::vector<int64_t> kernel = inferred_ints(api, context, "kernel_shape");
    const std::vector<int64_t> strides = inferred_ints(api, context, "strides");
    const std::vector<int64_t> pads = inferred_ints(api, context, "pads");
    const std::vector<int64_t> dilations = inferred_ints(api, context, "dilations");
    const size_t rank = kernel.size();
    if (n < 1 || !inferred_shape(api, context, kX, &shape) || shape.dims.size() != rank + 2 ||
        strides.size() != rank || dilations.size() != rank || pads.size() != 2 * rank)
      return;
    shape.dims[1] = n;
    shape.names[1] = "";
    std::string made[2];
    for (size_t i = 0; i < rank && i < 2; i++) {
      for (int64_t value : {kernel[i], strides[i], dilations[i], pads[i] + 1, pads[rank + i] + 1})
        if (value < 1 || value > kMostSpatial) return;
      int64_t& size = shape.dims[2 + i];
      const char*& name = shape.names[2 + i];
      const int64_t more = pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1);
      if (size >= 0) {
        if (size + more < 1) return;
        size = (size + more - 1) / strides[i] + 1;
      } else if (*name && (more != 0 || strides[i] != 1)) {
        made[i] = "(" + std::string(name) + " + " + std::to_string(more - 1) + ") / " +
                  std::to_string(strides[i]) + " + 1";
        name = made[i].c_str();
      }
    }
    for (size_t i = 0; i < shape.dims.size(); i++)
      if (shape.dims[i] < 0 && !*shape.names[i]) return;  // ORT would take -1 for a size
    infer_float(api, context, shape);
  });
}

}  // namespace

CustomOp lowbit_conv_op(const OrtApi* api) {
  CustomOp op = custom_op<ConvKernel>(api);
  op.GetName = [](const OrtCustomOp*) { return kName; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputs; };
  op.GetInputType = input_type;
  op.GetInputCharacteristic = input_kind;
  op.CreateKernelV2 = create;
  op.InferOutputShapeFn = infer;
  return op;
}

}  // namespace bitfold::ops
