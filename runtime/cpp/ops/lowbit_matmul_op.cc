// LowBitMatMul for ORT: what runtime/ops/__init__.py specifies.

#include "../kernels/dispatch.h"
#include "custom_ops.h"
#include "weight_inputs.h"

namespace bitfold::ops {
namespace {

constexpr const char* kName = "LowBitMatMul";
enum Input : size_t { kX, kPacked, kScales, kZeroPoints, kTable, kBias, kInputs };
// Beyond this many inputs a group's int32 sum could overflow: 65536 * 127 * 255 < 2^31.
constexpr int64_t kMostPerGroup = 65536;

class MatMulKernel {
 public:
  MatMulKernel(const OrtApi* api, const OrtKernelInfo* info)
      : api_(api),
        swiglu_(choice(api, info, "activation", "none", "swiglu")),
        weight_(api, info, {kPacked, kScales, kZeroPoints, kTable}, swiglu_) {
    const PackedWeight& w = weight_.value();
    op_.swiglu = swiglu_;
    op_.int8 = choice(api, info, "acts", "none", "int8");
    op_.act_group_size = int_attribute(api, info, "act_group_size");
    if (op_.int8 && op_.act_group_size != w.k && op_.act_group_size != w.group_size)
      refuse("attribute 'act_group_size': expected K = " + std::to_string(w.k) +
             " or group_size = " + std::to_string(w.group_size) + ", found " +
             std::to_string(op_.act_group_size));
    if (op_.int8 && w.group_size > kMostPerGroup)
      refuse("attribute 'group_size': expected at most " + std::to_string(kMostPerGroup) +
             " with int8 activations, found " + std::to_string(w.group_size));
    op_.columns = op_.swiglu ? w.n / 2 : w.n;
    const Tensor bias = constant_input(api, info, kBias);
    if (bias.data) op_.bias = checked_bias(bias);
    bias_complete_ = bias.data || !has_input(api, info, kBias);
  }

  void compute(OrtKernelContext* context) const {
    Tensor x = input(api_, context, kX);
    PackedWeight own;
    MatMul op = op_;
    op.weight = &weight_.value();
    if (!weight_.complete()) {
      own = weight_.at(api_, context);
      op.weight = &own;
    }
    if (!bias_complete_) {
      const Tensor bias = input(api_, context, kBias);
      op.bias = bias.data ? checked_bias(bias) : nullptr;
    }
    if (x.shape.empty() || x.shape.back() != op.weight->k)
      refuse("X: expected a last dimension of K = " + std::to_string(op.weight->k) +
             ", found " + (x.shape.empty() ? "a scalar" : std::to_string(x.shape.back())));
    op.rows = x.count / op.weight->k;
    op.x = static_cast<const float*>(x.data);
    x.shape.back() = op.columns;
    op.y = output(api_, context, x.shape.data(), x.shape.size());
    Threads threads{api_, context};
    if (!run_matmul(kernels()->matmul, op, parallel_for, &threads))
      refuse("no memory for " + std::to_string(op.rows) + " rows");
  }

 private:
  // Whether a string attribute has the second of its two values.
  static bool choice(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                     const char* off, const char* on) {
    const std::string value = string_attribute(api, info, name);
    if (value != off && value != on)
      refuse(std::string("attribute '") + name + "': expected '" + off + "' or '" + on +
             "', found '" + value + "'");
    return value == on;
  }

  const float* checked_bias(const Tensor& bias) const {
    const int64_t n = weight_.value().n;
    if (bias.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || bias.count != n)
      refuse("bias: expected " + std::to_string(n) + " float32 elements, found " +
             std::to_string(bias.count));
    return static_cast<const float*>(bias.data);
  }

  const OrtApi* api_;
  bool swiglu_;
  Weight weight_;
  MatMul op_{};
  bool bias_complete_ = false;
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
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // f16 or f32: checked at creation
    case kZeroPoints:
    case kTable:
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
    if (n > 0) infer_last(api, context, kX, swiglu ? n / 2 : n, false);
  });
}

}  // namespace

CustomOp lowbit_matmul_op(const OrtApi* api) {
  CustomOp op = custom_op<MatMulKernel>(api);
  op.GetName = [](const OrtCustomOp*) { return kName; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputs; };
  op.GetInputType = input_type;
  op.GetInputCharacteristic = input_kind;
  op.CreateKernelV2 = create;
  op.InferOutputShapeFn = infer;
  return op;
}

}  // namespace bitfold::ops
