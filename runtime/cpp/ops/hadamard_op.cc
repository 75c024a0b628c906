// Hadamard for ORT: what runtime/ops/__init__.py specifies.

#include <algorithm>
#include <atomic>

#include "../kernels/dispatch.h"
#include "../kernels/scratch.h"
#include "custom_ops.h"
#include "hadamard_input.h"

namespace bitfold::ops {
namespace {

constexpr const char* kName = "Hadamard";
enum Input : size_t { kX, kBase, kInputs };
// Floats that make a task worth another thread.
constexpr int64_t kWorthAThread = 32 << 10;
constexpr int64_t kMaxTasks = 32;

// A call: blocks of X, shared out to tasks.
struct Blocks {
  const Hadamard* hadamard;
  HadamardBlocks transform;
  const float* x;
  float* y;
  int64_t count, tasks;
  std::atomic<bool>* starved;  // a thread found no memory
};

void transform(void* data, size_t task) {
  const Blocks* blocks = static_cast<const Blocks*>(data);
  const Hadamard* h = blocks->hadamard;
  const int64_t first = blocks->count * static_cast<int64_t>(task) / blocks->tasks;
  const int64_t last = blocks->count * static_cast<int64_t>(task + 1) / blocks->tasks;
  auto* scratch = reinterpret_cast<float*>(
      thread_scratch(Scratch::kPanel, hadamard_scratch(h) * sizeof(float)));
  if (scratch == nullptr) {
    blocks->starved->store(true);
    return;
  }
  const int64_t at = first * h->size;
  blocks->transform(h, blocks->x + at, blocks->y + at, last - first, scratch);
}

class HadamardKernel {
 public:
  HadamardKernel(const OrtApi* api, const OrtKernelInfo* info)
      : api_(api), hadamard_(api, info, "size", kBase) {}

  void compute(OrtKernelContext* context) const {
    const Hadamard& h = hadamard_.value();
    const Tensor x = input(api_, context, kX);
    if (x.shape.empty() || x.shape.back() % h.size != 0)
      refuse("X: expected a last dimension that 'size' = " + std::to_string(h.size) +
             " divides, found " + (x.shape.empty() ? "a scalar" : std::to_string(x.shape.back())));
    std::atomic<bool> starved{false};
    Blocks blocks{&h, kernels()->hadamard, static_cast<const float*>(x.data), nullptr,
                  x.count / h.size, 1, &starved};
    blocks.y = output(api_, context, x.shape.data(), x.shape.size());
    if (x.count == 0) return;
    blocks.tasks = std::clamp<int64_t>(x.count / kWorthAThread, 1, kMaxTasks);
    blocks.tasks = std::min(blocks.tasks, blocks.count);
    Threads threads{api_, context};
    if (blocks.tasks == 1) {
      transform(&blocks, 0);
    } else {
      parallel_for(&threads, transform, &blocks, static_cast<size_t>(blocks.tasks));
    }
    if (starved.load()) refuse("no memory for a base of " + std::to_string(h.base) + " rows");
  }

 private:
  const OrtApi* api_;
  HadamardInput hadamard_;
};

OrtStatus* BITFOLD_ORT_CALL create(const OrtCustomOp*, const OrtApi* api,
                                   const OrtKernelInfo* info, void** kernel) {
  return guarded(api, kName, [&] { *kernel = new KernelOf<HadamardKernel>(api, info); });
}

OrtStatus* BITFOLD_ORT_CALL infer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi* api = api_of(op);
  return guarded(api, kName, [&] {
    SymbolicShape shape;
    if (inferred_shape(api, context, kX, &shape)) infer_float(api, context, shape);
  });
}

}  // namespace

CustomOp hadamard_op(const OrtApi* api) {
  CustomOp op = custom_op<HadamardKernel>(api);
  op.GetName = [](const OrtCustomOp*) { return kName; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputs; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) {
    return index == kBase ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8
                          : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == kBase ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  op.CreateKernelV2 = create;
  op.InferOutputShapeFn = infer;
  return op;
}

}  // namespace bitfold::ops
