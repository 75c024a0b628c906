// bitfold's operators as ORT sees them: one OrtCustomOp each.
#pragma once

#include "node.h"

namespace bitfold::ops {

// ORT hands back the pointer that was registered: what follows the struct is ours.
struct CustomOp : OrtCustomOp {
  const OrtApi* api;
};

inline const OrtApi* api_of(const OrtCustomOp* op) { return static_cast<const CustomOp*>(op)->api; }

// An operator's kernel for one node, which computes with `kernel.compute(context)`.
template <class Kernel>
struct KernelOf {
  const OrtApi* api;
  Kernel kernel;
  KernelOf(const OrtApi* api, const OrtKernelInfo* info) : api(api), kernel(api, info) {}
};

// The parts that every operator has in common: one version, and one float output but for those
// that say otherwise.
template <class Kernel>
CustomOp custom_op(const OrtApi* api) {
  CustomOp op{};
  op.version = kApiVersion;
  op.api = api;
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) {
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    auto* of = static_cast<KernelOf<Kernel>*>(kernel);
    return guarded(of->api, "bitfold", [&] { of->kernel.compute(context); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<KernelOf<Kernel>*>(kernel); };
  return op;
}

CustomOp fused_attention_op(const OrtApi* api);
CustomOp lowbit_matmul_op(const OrtApi* api);
CustomOp lowbit_gather_op(const OrtApi* api);
CustomOp lowbit_conv_op(const OrtApi* api);
CustomOp hadamard_op(const OrtApi* api);

}  // namespace bitfold::ops
