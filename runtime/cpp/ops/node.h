// What operators need of ORT: refusals, attributes, inputs, outputs, threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace bitfold::ops {

using namespace bitfold::ort;

// Thrown inside ops/ only; `guarded` turns it into a status at ORT's border.
struct Refusal {
  std::string message;
};

[[noreturn]] void refuse(const std::string& message);

// Run `body` and report what it throws as a status of ORT that starts with `op`.
template <class Body>
OrtStatus* guarded(const OrtApi* api, const char* op, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Refusal& refusal) {
    try {
      return api->CreateStatus(ORT_INVALID_ARGUMENT, (op + (": " + refusal.message)).c_str());
    } catch (...) {
    }
  } catch (...) {
  }
  return api->CreateStatus(ORT_FAIL, "bitfold: out of memory");
}

// A status of ORT's own functions: throws its message.
void check(const OrtApi* api, OrtStatus* status);

// An attribute.  Refuses when it is missing or, where a range is given, outside of it.
int64_t int_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name);
int64_t int_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                      int64_t least, int64_t most);
// Whether there is an attribute of this name; refuses one of another type.
bool has_int(const OrtApi* api, const OrtKernelInfo* info, const char* name);
float float_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name);
// The same, or `missing` where there is none.
float float_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                      float missing);
std::string string_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name);

// A list of integers; empty when the attribute is missing.
std::vector<int64_t> ints_attribute(const OrtApi* api, const OrtKernelInfo* info,
                                    const char* name);

// A tensor: where its data is, its type and its shape.
struct Tensor {
  const void* data = nullptr;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> shape;
  int64_t count = 0;
};

// A shape as messages show it: [2, 3].
std::string shape_text(const std::vector<int64_t>& shape);

// Read a tensor that may be missing (data is then null).
Tensor read_tensor(const OrtApi* api, const OrtValue* value);

// Whether a node has this input at all.
bool has_input(const OrtApi* api, const OrtKernelInfo* info, size_t index);

// The tensor of a constant input; data is null when the input is missing or not constant.
Tensor constant_input(const OrtApi* api, const OrtKernelInfo* info, size_t index);

// The tensor of any input at run time; data is null when it is missing.
Tensor input(const OrtApi* api, const OrtKernelContext* context, size_t index);

// The value of any input at run time, or null.
const OrtValue* input_value(const OrtApi* api, const OrtKernelContext* context, size_t index);

// Allocate an output.
float* output(const OrtApi* api, OrtKernelContext* context, const int64_t* shape, size_t rank,
              size_t index = 0);

// What a ParallelFor of the kernels needs.
struct Threads {
  const OrtApi* api;
  const OrtKernelContext* context;
};

// Calls fn(data, i) for i below count on ORT's threads; `threads` is a Threads.
void parallel_for(void* threads, void (*fn)(void*, size_t), void* data, size_t count);

// A shape known at inference: sizes, -1 where unknown, and their symbols, "" where there is none.
struct SymbolicShape {
  std::vector<int64_t> dims;
  std::vector<const char*> names;
};

// The shape of input `index`; false when nothing is known of it.
bool inferred_shape(const OrtApi* api, OrtShapeInferContext* context, size_t index,
                    SymbolicShape* shape);
// Output `index` is float32 of this shape.
void infer_float(const OrtApi* api, OrtShapeInferContext* context, const SymbolicShape& shape,
                 size_t index = 0);

// Shape inference: output `index` has the shape of input `like` with its last dimension replaced
// by `last`, or, with `append`, followed by it.
void infer_last(const OrtApi* api, OrtShapeInferContext* context, size_t like, int64_t last,
                bool append, size_t index = 0);
int64_t inferred_int(const OrtApi* api, const OrtShapeInferContext* context, const char* name);
// Empty when the attribute is missing.
std::vector<int64_t> inferred_ints(const OrtApi* api, const OrtShapeInferContext* context,
                                   const char* name);
std::string inferred_string(const OrtApi* api, const OrtShapeInferContext* context,
                            const char* name);

}  // namespace bitfold::ops
