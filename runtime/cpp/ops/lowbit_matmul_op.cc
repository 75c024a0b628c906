// LowBitMatMul for ORT: what runtime/ops/__init__.py specifies.

#include <cmath>

#include "../kernels/dispatch.h"
#include "custom_ops.h"
#include "hadamard_input.h"
#include "low_rank_input.h"
#include "weight_bytes.h"
#include "weight_inputs.h"

namespace bitfold::ops {
namespace {

constexpr const char* kName = "LowBitMatMul";
enum Input : size_t { kX, kPacked, kScales, kZeroPoints, kTable, kBias, kResidual, kNormGain,
                      kHadamard, kActScale, kLowRankDown, kLowRankUp, kInputScales,
                      kColumnNorms, kInputs };
constexpr const char* kActivations[] = {"none", "swiglu", "relu", "gelu", "gelu_tanh"};
static_assert(kIdentity == 0 && kSwiGlu == 1 && kRelu == 2 && kGelu == 3 && kGeluTanh == 4,
              "the names are in the order of the enum");
constexpr const char* kActs[] = {"none", "int8", "int4", "int3", "int2", "int1"};
constexpr int32_t kActBits[] = {0, 8, 4, 3, 2, 1};
// Beyond this many inputs a group's int32 sum could overflow: 65536 * 127 * 255 < 2^31.
constexpr int64_t kMostPerGroup = 65536;

class MatMulKernel {
 public:
  MatMulKernel(const OrtApi* api, const OrtKernelInfo* info)
      : api_(api),
        activation_(static_cast<Activation>(choice(api, info, "activation", kActivations))),
        weight_(api, info, {kPacked, kScales, kZeroPoints, kTable}, activation_ == kSwiGlu,
                kMasked),
        splits_(ints_attribute(api, info, "splits")),
        bytes_(weight_.bytes()),
        hadamard_(hadamard_of(api, info)),
        low_rank_(api, info, kLowRankDown, kLowRankUp, weight_.value(), activation_ == kSwiGlu) {
    const PackedWeight& w = weight_.value();
    op_.activation = activation_;
    op_.act_bits = kActBits[choice(api, info, "acts", kActs)];
    op_.int8 = op_.act_bits != 0;
    op_.act_group_size = int_attribute(api, info, "act_group_size");
    if (op_.int8 && op_.act_group_size != w.k && op_.act_group_size != w.group_size)
      refuse("attribute 'act_group_size': expected K = " + std::to_string(w.k) +
             " or group_size = " + std::to_string(w.group_size) + ", found " +
             std::to_string(op_.act_group_size));
    if (op_.int8 && w.group_size > kMostPerGroup)
      refuse("attribute 'group_size': expected at most " + std::to_string(kMostPerGroup) +
             " with integer activations, found " + std::to_string(w.group_size));
    if (op_.int8) expect_integers(w);
    op_.columns = is_paired(&op_) ? w.n / 2 : w.n;
    if (splits_.empty()) splits_ = {op_.columns};
    check_splits();
    if (splits_.size() > 1 && has_input(api, info, kResidual))
      refuse("residual: expected none beside attribute 'splits'");
    const Tensor bias = constant_input(api, info, kBias);
    if (bias.data) op_.bias = checked_bias(bias);
    bias_complete_ = bias.data || !has_input(api, info, kBias);
    read_prologue(info);
    op_.low_rank = low_rank_.value();
    read_input_scales(info);
  }

  void compute(OrtKernelContext* context) const {
    Tensor x = input(api_, context, kX);
    PackedWeight own;
    std::vector<int64_t> first_lines;
    MatMul op = op_;
    op.weight = &weight_.value();
    if (!weight_.complete()) {
      own = weight_.at(api_, context, &first_lines);
      if (op.int8) expect_integers(own);
      op.weight = &own;
    }
    if (!bias_complete_) {
      const Tensor bias = input(api_, context, kBias);
      op.bias = bias.data ? checked_bias(bias) : nullptr;
    }
    if (!prologue_complete_) {
      const Tensor gain = input(api_, context, kNormGain);
      const Tensor scale = input(api_, context, kActScale);
      if (gain.data) op.prologue.gain = checked_gain(gain);
      if (scale.data) op.act_scale = checked_scale(scale);
      const Tensor norms = input(api_, context, kColumnNorms);
      if (norms.data) op.prologue.skip.norms = checked_norms(norms);
    }
    if (!input_scales_complete_)
      op.input_scales = checked_input_scales(input(api_, context, kInputScales));
    HeldLowRank low_rank;
    if (!low_rank_.complete()) {
      low_rank = low_rank_.at(api_, context);
      op.low_rank = low_rank.value;
    }
    if (x.shape.empty() || x.shape.back() != op.weight->k)
      refuse("X: expected a last dimension of K = " + std::to_string(op.weight->k) +
             ", found " + (x.shape.empty() ? "a scalar" : std::to_string(x.shape.back())));
    op.rows = x.count / op.weight->k;
    op.x = static_cast<const float*>(x.data);
    op.streamed = WeightBytes::exceed_cache();
    op.masked = kernels()->masked;
    x.shape.back() = op.columns;
    const Tensor residual = input(api_, context, kResidual);
    if (residual.data) {
      if (residual.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || residual.shape != x.shape)
        refuse("residual: expected float32 of Y's shape, " + shape_text(x.shape) + ", found " +
               shape_text(residual.shape));
      op.residual = static_cast<const float*>(residual.data);
    }
    size_t outputs = 0;
    check(api_, api_->KernelContext_GetOutputCount(context, &outputs));
    if (outputs != splits_.size())
      refuse("expected " + std::to_string(splits_.size()) + " outputs, found " +
             std::to_string(outputs));
    std::vector<Part> parts;
    int64_t first = 0;
    for (int64_t columns : splits_) {
      x.shape.back() = columns;
      float* y = output(api_, context, x.shape.data(), x.shape.size(), parts.size());
      parts.push_back({y, first, columns});
      first += columns;
    }
    op.parts = parts.data();
    op.part_count = static_cast<int32_t>(parts.size());
    Threads threads{api_, context};
    const MatMulKernels chosen = kernels_for(kernels()->matmul, kernels()->planes, &op);
    if (!run_matmul(&chosen, op, parallel_for, &threads))
      refuse("no memory for " + std::to_string(op.rows) + " rows");
  }

 private:
  // None where there is neither the attribute nor the base.
  static HadamardInput hadamard_of(const OrtApi* api, const OrtKernelInfo* info) {
    if (!has_int(api, info, "hadamard_size") && !has_input(api, info, kHadamard)) return {};
    return HadamardInput(api, info, "hadamard_size", kHadamard);
  }

  // Which of its values a string attribute has.
  template <size_t COUNT>
  static size_t choice(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                       const char* const (&values)[COUNT]) {
    const std::string value = string_attribute(api, info, name);
    std::string all;
    for (size_t i = 0; i < COUNT; i++) {
      if (value == values[i]) return i;
      all += std::string(i == 0 ? "'" : i + 1 < COUNT ? ", '" : " or '") + values[i] + "'";
    }
    refuse(std::string("attribute '") + name + "': expected " + all + ", found '" + value + "'");
  }

  void check_splits() const {
    int64_t sum = 0;
    for (int64_t columns : splits_) {
      if (columns < 1 || columns > op_.columns - sum) {
        sum = -1;
        break;
      }
      // Only the last may end within a tile.
      if (sum % kTile)
        refuse("attribute 'splits': expected multiples of 16, found " + shape_text(splits_));
      sum += columns;
    }
    if (sum != op_.columns)
      refuse("attribute 'splits': expected sizes that add up to " + std::to_string(op_.columns) +
             ", found " + shape_text(splits_));
  }

  void read_prologue(const OrtKernelInfo* info) {
    const int64_t k = weight_.value().k;
    const bool normed = has_input(api_, info, kNormGain);
    const bool given_scale = has_input(api_, info, kActScale);
    if (normed) {
      op_.prologue.epsilon = float_attribute(api_, info, "epsilon");
      if (!(op_.prologue.epsilon >= 0) || std::isinf(op_.prologue.epsilon))
        refuse("attribute 'epsilon': expected 0 or more, found " +
               std::to_string(op_.prologue.epsilon));
    }
    op_.prologue.hadamard = hadamard_.value();
    if (hadamard_.value().size && k % hadamard_.value().size != 0)
      refuse("attribute 'hadamard_size': expected a divisor of K = " + std::to_string(k) +
             ", found " + std::to_string(hadamard_.value().size));
    if (given_scale && op_.act_bits != 8) refuse("act_scale: expected none but with acts=int8");
    if (given_scale && op_.act_group_size != k)
      refuse("attribute 'act_group_size': expected K = " + std::to_string(k) +
             " beside act_scale, found " + std::to_string(op_.act_group_size));
    const bool skips = has_input(api_, info, kColumnNorms);
    if (skips) {
      op_.prologue.skip.keep = float_attribute(api_, info, "keep");
      if (!(op_.prologue.skip.keep > 0 && op_.prologue.skip.keep <= 1))
        refuse("attribute 'keep': expected more than 0 and at most 1, found " +
               std::to_string(op_.prologue.skip.keep));
      if (op_.act_bits == 1) refuse("column_norms: expected none with acts=int1");
    }
    const Tensor gain = constant_input(api_, info, kNormGain);
    const Tensor scale = constant_input(api_, info, kActScale);
    const Tensor norms = constant_input(api_, info, kColumnNorms);
    if (gain.data) op_.prologue.gain = checked_gain(gain);
    if (scale.data) op_.act_scale = checked_scale(scale);
    if (norms.data) op_.prologue.skip.norms = checked_norms(norms);
    prologue_complete_ =
        !normed == !gain.data && !given_scale == !scale.data && !skips == !norms.data;
  }

  void read_input_scales(const OrtKernelInfo* info) {
    const bool given = has_input(api_, info, kInputScales);
    if (given != has_int(api_, info, "n_group_size"))
      refuse("attribute 'n_group_size': expected beside input_scales alone, found one of both");
    if (!given) return;
    const int64_t n = weight_.value().n;
    const int64_t size = int_attribute(api_, info, "n_group_size", 1, n);
    if (size != n && size % kTile != 0)
      refuse("attribute 'n_group_size': expected N = " + std::to_string(n) +
             " or a multiple of 16, found " + std::to_string(size));
    // Two blocks of outputs would meet in each pair of a gate and an up tile.
    if (size != n && is_paired(&op_))
      refuse("attribute 'n_group_size': expected N = " + std::to_string(n) +
             " with swiglu, found " + std::to_string(size));
    scaled_blocks_ = (n + size - 1) / size;
    op_.scaled_tiles = size == n ? weight_.value().tiles : static_cast<int32_t>(size / kTile);
    const Tensor scales = constant_input(api_, info, kInputScales);
    input_scales_complete_ = scales.data != nullptr;
    if (scales.data) op_.input_scales = checked_input_scales(scales);
  }

  const float* checked_input_scales(const Tensor& scales) const {
    const std::vector<int64_t> shape = {scaled_blocks_, weight_.value().k};
    if (scales.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || scales.shape != shape)
      refuse("input_scales: expected float32 of shape " + shape_text(shape) + ", found " +
             shape_text(scales.shape));
    return static_cast<const float*>(scales.data);
  }

  static const float* checked_vector(const char* name, const Tensor& vector, int64_t size) {
    const std::vector<int64_t> shape = {size};
    if (vector.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || vector.shape != shape)
      refuse(std::string(name) + ": expected float32 of shape " + shape_text(shape) + ", found " +
             shape_text(vector.shape));
    return static_cast<const float*>(vector.data);
  }

  const float* checked_gain(const Tensor& gain) const {
    return checked_vector("norm_gain", gain, weight_.value().k);
  }

  const float* checked_bias(const Tensor& bias) const {
    return checked_vector("bias", bias, weight_.value().n);
  }

  const float* checked_norms(const Tensor& norms) const {
    const int64_t k = weight_.value().k;
    const float* values = checked_vector("column_norms", norms, k);
    for (int64_t i = 0; i < k; i++)
      if (!(values[i] >= 0) || std::isinf(values[i]))
        refuse("column_norms: expected finite numbers of 0 or more, found " +
               std::to_string(values[i]));
    return values;
  }

  static float checked_scale(const Tensor& scale) {
    if (scale.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || scale.count != 1)
      refuse("act_scale: expected 1 float32 element, found " + std::to_string(scale.count));
    const float value = *static_cast<const float*>(scale.data);
    // The inverse must be finite too.
    if (!(value >= 1e-30f && value <= 1e30f))
      refuse("act_scale: expected 1e-30 to 1e30, found " + std::to_string(value));
    return value;
  }

  const OrtApi* api_;
  Activation activation_;
  Weight weight_;
  std::vector<int64_t> splits_;  // of Y's columns: one for each output
  WeightBytes bytes_;
  MatMul op_{};
  HadamardInput hadamard_;
  LowRankInput low_rank_;
  int64_t scaled_blocks_ = 0;  // of outputs, each with input scales of its own
  bool bias_complete_ = false, prologue_complete_ = false, input_scales_complete_ = true;
};

OrtStatus* BITFOLD_ORT_CALL create(const OrtCustomOp*, const OrtApi* api,
                                   const OrtKernelInfo* info, void** kernel) {
  return guarded(api, kName, [&] { *kernel = new KernelOf<MatMulKernel>(api, info); });
}

ONNXTensorElementDataType BITFOLD_ORT_CALL input_type(const OrtCustomOp*, size_t index) {
  switch (index) {
    case kPacked:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case kScales:
    case kTable:
    case kLowRankDown:
    case kLowRankUp:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // one of several: checked at creation
    case kZeroPoints:
    case kHadamard:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    default:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
}

OrtCustomOpInputOutputCharacteristic BITFOLD_ORT_CALL input_kind(const OrtCustomOp*,
                                                                 size_t index) {
  return index < kZeroPoints ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

OrtStatus* BITFOLD_ORT_CALL infer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi* api = api_of(op);
  return guarded(api, kName, [&] {
    const int64_t n = inferred_int(api, context, "N");
    const bool swiglu = inferred_string(api, context, "activation") == "swiglu";
    std::vector<int64_t> splits = inferred_ints(api, context, "splits");
    if (splits.empty() && n > 0) splits = {swiglu ? n / 2 : n};
    for (size_t i = 0; i < splits.size(); i++)
      infer_last(api, context, kX, splits[i], false, i);
  });
}

}  // namespace

CustomOp lowbit_matmul_op(const OrtApi* api) {
  CustomOp op = custom_op<MatMulKernel>(api);
  op.GetName = [](const OrtCustomOp*) { return kName; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputs; };
  op.GetInputType = input_type;
  op.GetInputCharacteristic = input_kind;
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_VARIADIC; };
  op.CreateKernelV2 = create;
  op.InferOutputShapeFn = infer;
  return op;
}

}  // namespace bitfold::ops
