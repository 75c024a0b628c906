// LowBitGather for ORT: what runtime/ops/__init__.py specifies.

#include <algorithm>

#include "../kernels/dispatch.h"
#include "custom_ops.h"
#include "weight_inputs.h"

namespace bitfold::ops {
namespace {

constexpr const char* kName = "LowBitGather";
enum Input : size_t { kPacked, kScales, kZeroPoints, kTable, kIndices, kInputs };
// Floats that make a task worth another thread.
constexpr int64_t kWorthAThread = 16 << 10;
constexpr int64_t kMaxTasks = 32;

struct Rows {
  const PackedWeight* weight;
  GatherRow gather_row;
  const Tensor* indices;
  float* out;
  int64_t tasks;

  int64_t index(int64_t i) const {
    const int64_t value = indices->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
                              ? static_cast<const int64_t*>(indices->data)[i]
                              : static_cast<const int32_t*>(indices->data)[i];
    return value < 0 ? value + weight->n : value;
  }
};

void gather(void* data, size_t task) {
  const Rows* rows = static_cast<const Rows*>(data);
  const int64_t count = rows->indices->count, k = rows->weight->k;
  const int64_t first = count * static_cast<int64_t>(task) / rows->tasks;
  const int64_t last = count * static_cast<int64_t>(task + 1) / rows->tasks;
  for (int64_t i = first; i < last; i++)
    rows->gather_row(rows->weight, rows->index(i), rows->out + i * k);
}

class GatherKernel {
 public:
  GatherKernel(const OrtApi* api, const OrtKernelInfo* info)
      : api_(api), weight_(api, info, {kPacked, kScales, kZeroPoints, kTable}, false) {}

  void compute(OrtKernelContext* context) const {
    PackedWeight own;
    const PackedWeight* w = &weight_.value();
    if (!weight_.complete()) {
      own = weight_.at(api_, context);
      w = &own;
    }
    const Tensor indices = input(api_, context, kIndices);
    if (indices.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 &&
        indices.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32)
      refuse("indices: expected type int64 or int32, found ONNX element type " +
             std::to_string(static_cast<int>(indices.type)));
    Rows rows{w, kernels()->gather_row, &indices, nullptr, 1};
    for (int64_t i = 0; i < indices.count; i++) {
      const int64_t index = rows.index(i);
      if (index < 0 || index >= w->n)
        refuse("indices: expected " + std::to_string(-w->n) + " to " + std::to_string(w->n - 1) +
               ", found " + std::to_string(index < 0 ? index - w->n : index));
    }
    std::vector<int64_t> shape = indices.shape;
    shape.push_back(w->k);
    rows.out = output(api_, context, shape.data(), shape.size());
    rows.tasks = std::clamp<int64_t>(indices.count * w->k / kWorthAThread, 1, kMaxTasks);
    rows.tasks = std::min(rows.tasks, std::max<int64_t>(indices.count, 1));
    Threads threads{api_, context};
    if (rows.tasks == 1) {
      gather(&rows, 0);
    } else {
      parallel_for(&threads, gather, &rows, static_cast<size_t>(rows.tasks));
    }
  }

 private:
  const OrtApi* api_;
  Weight weight_;
};

OrtStatus* BITFOLD_ORT_CALL create(const OrtCustomOp*, const OrtApi* api,
                                   const OrtKernelInfo* info, void** kernel) {
  return guarded(api, kName, [&] { *kernel = new KernelOf<GatherKernel>(api, info); });
}

ONNXTensorElementDataType BITFOLD_ORT_CALL input_type(const OrtCustomOp*, size_t index) {
  switch (index) {
    case kPacked:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case kZeroPoints:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    default:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // one of several: checked later
  }
}

OrtCustomOpInputOutputCharacteristic BITFOLD_ORT_CALL input_kind(const OrtCustomOp*,
                                                                 size_t index) {
  return index == kZeroPoints || index == kTable ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

OrtStatus* BITFOLD_ORT_CALL infer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi* api = api_of(op);
  return guarded(api, kName, [&] {
    const int64_t k = inferred_int(api, context, "K");
    if (k > 0) infer_last(api, context, kIndices, k, true);
  });
}

}  // namespace

CustomOp lowbit_gather_op(const OrtApi* api) {
  CustomOp op = custom_op<GatherKernel>(api);
  op.GetName = [](const OrtCustomOp*) { return kName; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputs; };
  op.GetInputType = input_type;
  op.GetInputCharacteristic = input_kind;
  op.CreateKernelV2 = create;
  op.InferOutputShapeFn = infer;
  return op;
}

}  // namespace bitfold::ops
