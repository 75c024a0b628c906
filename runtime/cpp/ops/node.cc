#include "node.h"

#include <cstring>

namespace bitfold::ops {

void refuse(const std::string& message) { throw Refusal{message}; }

void check(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw Refusal{message};
}

namespace {

// Whether an optional question to ORT was answered.
bool answered(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return true;
  api->ReleaseStatus(status);
  return false;
}

// Releases ORT's shape objects.
struct ShapeInfo {
  const OrtApi* api;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  ~ShapeInfo() {
    if (info) api->ReleaseTensorTypeAndShapeInfo(info);
  }
};

// To ORT an attribute of another type than the one asked for is not there, or an empty list.
// Where it may be left out, that would pass over it in silence.
void refuse_another_type(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                         const char* type) {
  int64_t integer = 0;
  float number = 0;
  size_t text = 0, integers = 0, numbers = 0;
  bool other = answered(api, api->KernelInfoGetAttribute_int64(info, name, &integer)) ||
               answered(api, api->KernelInfoGetAttribute_float(info, name, &number)) ||
               answered(api, api->KernelInfoGetAttribute_string(info, name, nullptr, &text));
  if (answered(api, api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &integers)))
    other = other || integers > 0;
  if (answered(api, api->KernelInfoGetAttributeArray_float(info, name, nullptr, &numbers)))
    other = other || numbers > 0;
  if (other)
    refuse(std::string("attribute '") + name + "': expected " + type + ", found another type");
}

}  // namespace

int64_t int_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  int64_t value = 0;
  if (!answered(api, api->KernelInfoGetAttribute_int64(info, name, &value)))
    refuse(std::string("expected an int attribute '") + name + "', found none");
  return value;
}

int64_t int_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                      int64_t least, int64_t most) {
  const int64_t value = int_attribute(api, info, name);
  if (value < least || value > most)
    refuse(std::string("attribute '") + name + "': expected " + std::to_string(least) + " to " +
           std::to_string(most) + ", found " + std::to_string(value));
  return value;
}

bool has_int(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  int64_t value = 0;
  if (answered(api, api->KernelInfoGetAttribute_int64(info, name, &value))) return true;
  refuse_another_type(api, info, name, "an int");
  return false;
}

float float_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  float value = 0;
  if (!answered(api, api->KernelInfoGetAttribute_float(info, name, &value)))
    refuse(std::string("expected a float attribute '") + name + "', found none");
  return value;
}

float float_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                      float missing) {
  float value = 0;
  if (answered(api, api->KernelInfoGetAttribute_float(info, name, &value))) return value;
  refuse_another_type(api, info, name, "a float");
  return missing;
}

std::string string_attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  size_t size = 0;
  std::string value;
  if (answered(api, api->KernelInfoGetAttribute_string(info, name, nullptr, &size))) {
    value.resize(size);
    if (answered(api, api->KernelInfoGetAttribute_string(info, name, value.data(), &size)))
      return value.substr(0, std::strlen(value.c_str()));
  }
  refuse(std::string("expected a string attribute '") + name + "', found none");
}

std::vector<int64_t> ints_attribute(const OrtApi* api, const OrtKernelInfo* info,
                                    const char* name) {
  size_t size = 0;
  if (!answered(api, api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) ||
      size == 0) {
    refuse_another_type(api, info, name, "a list of ints");
    return {};
  }
  std::vector<int64_t> values(size);
  check(api, api->KernelInfoGetAttributeArray_int64(info, name, values.data(), &size));
  return values;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Tensor read_tensor(const OrtApi* api, const OrtValue* value) {
  Tensor tensor;
  if (value == nullptr) return tensor;
  ShapeInfo shape{api};
  check(api, api->GetTensorTypeAndShape(value, &shape.info));
  size_t rank = 0;
  check(api, api->GetDimensionsCount(shape.info, &rank));
  tensor.shape.resize(rank);
  check(api, api->GetDimensions(shape.info, tensor.shape.data(), rank));
  check(api, api->GetTensorElementType(shape.info, &tensor.type));
  tensor.count = 1;
  for (int64_t dim : tensor.shape) tensor.count *= dim;
  void* data = nullptr;
  check(api, api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  static const char nothing = 0;  // an empty tensor is there, though it has no data
  tensor.data = data ? data : &nothing;
  return tensor;
}

bool has_input(const OrtApi* api, const OrtKernelInfo* info, size_t index) {
  size_t count = 0, size = 0;
  check(api, api->KernelInfo_GetInputCount(info, &count));
  if (index >= count) return false;
  check(api, api->KernelInfo_GetInputName(info, index, nullptr, &size));
  return size > 1;  // the name of a missing input is empty; size counts the final zero
}

Tensor constant_input(const OrtApi* api, const OrtKernelInfo* info, size_t index) {
  size_t count = 0;
  check(api, api->KernelInfo_GetInputCount(info, &count));
  if (index >= count) return {};
  int constant = 0;
  const OrtValue* value = nullptr;
  if (!answered(api, api->KernelInfoGetConstantInput_tensor(info, index, &constant, &value)))
    return {};
  return constant ? read_tensor(api, value) : Tensor{};
}

const OrtValue* input_value(const OrtApi* api, const OrtKernelContext* context, size_t index) {
  size_t count = 0;
  check(api, api->KernelContext_GetInputCount(context, &count));
  if (index >= count) return nullptr;
  const OrtValue* value = nullptr;
  check(api, api->KernelContext_GetInput(context, index, &value));
  return value;
}

Tensor input(const OrtApi* api, const OrtKernelContext* context, size_t index) {
  return read_tensor(api, input_value(api, context, index));
}

float* output(const OrtApi* api, OrtKernelContext* context, const int64_t* shape, size_t rank,
              size_t index) {
  OrtValue* value = nullptr;
  check(api, api->KernelContext_GetOutput(context, index, shape, rank, &value));
  if (value == nullptr) refuse("output " + std::to_string(index) + ": expected one, found none");
  void* data = nullptr;
  check(api, api->GetTensorMutableData(value, &data));
  return static_cast<float*>(data);
}

void parallel_for(void* threads, void (*fn)(void*, size_t), void* data, size_t count) {
  const Threads* on = static_cast<const Threads*>(threads);
  // As many batches as calls: a thread takes the next one when it is free, where by default each
  // would have its share from the start and wait for the slowest.
  OrtStatus* status = on->api->KernelContext_ParallelFor(on->context, fn, count, count, data);
  if (status == nullptr) return;
  on->api->ReleaseStatus(status);
  for (size_t i = 0; i < count; i++) fn(data, i);
}

bool inferred_shape(const OrtApi* api, OrtShapeInferContext* context, size_t index,
                    SymbolicShape* shape) {
  OrtTensorTypeAndShapeInfo* given = nullptr;  // the context keeps it
  if (!answered(api, api->ShapeInferContext_GetInputTypeShape(context, index, &given)) || !given)
    return false;
  size_t rank = 0;
  check(api, api->GetDimensionsCount(given, &rank));
  shape->dims.resize(rank);
  shape->names.assign(rank, "");
  check(api, api->GetDimensions(given, shape->dims.data(), rank));
  check(api, api->GetSymbolicDimensions(given, shape->names.data(), rank));
  return true;
}

void infer_float(const OrtApi* api, OrtShapeInferContext* context, const SymbolicShape& found,
                 size_t index) {
  ShapeInfo shape{api};
  check(api, api->CreateTensorTypeAndShapeInfo(&shape.info));
  check(api, api->SetTensorElementType(shape.info, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
  check(api, api->SetDimensions(shape.info, found.dims.data(), found.dims.size()));
  std::vector<const char*> names = found.names;  // the call wants them mutable
  check(api, api->SetSymbolicDimensions(shape.info, names.data(), names.size()));
  check(api, api->ShapeInferContext_SetOutputTypeShape(context, index, shape.info));
}

void infer_last(const OrtApi* api, OrtShapeInferContext* context, size_t like, int64_t last,
                bool append, size_t index) {
  SymbolicShape shape;
  if (!inferred_shape(api, context, like, &shape)) return;
  if (shape.dims.empty()) return;  // a scalar, or of unknown rank: ORT does not tell them apart
  if (!append) shape.dims.pop_back(), shape.names.pop_back();
  shape.dims.push_back(last);
  shape.names.push_back("");
  infer_float(api, context, shape, index);
}

int64_t inferred_int(const OrtApi* api, const OrtShapeInferContext* context, const char* name) {
  const OrtOpAttr* attribute = nullptr;
  int64_t value = 0;
  size_t size = 0;
  if (!answered(api, api->ShapeInferContext_GetAttribute(context, name, &attribute)) ||
      !answered(api, api->ReadOpAttr(attribute, ORT_OP_ATTR_INT, &value, sizeof value, &size)))
    return -1;
  return value;
}

std::vector<int64_t> inferred_ints(const OrtApi* api, const OrtShapeInferContext* context,
                                   const char* name) {
  const OrtOpAttr* attribute = nullptr;
  size_t bytes = 0;
  if (!answered(api, api->ShapeInferContext_GetAttribute(context, name, &attribute))) return {};
  // Asked with no room, ORT says how many bytes it needs.
  answered(api, api->ReadOpAttr(attribute, ORT_OP_ATTR_INTS, nullptr, 0, &bytes));
  std::vector<int64_t> values(bytes / sizeof(int64_t));
  if (values.empty() || !answered(api, api->ReadOpAttr(attribute, ORT_OP_ATTR_INTS, values.data(),
                                                       bytes, &bytes)))
    return {};
  return values;
}

std::string inferred_string(const OrtApi* api, const OrtShapeInferContext* context,
                            const char* name) {
  const OrtOpAttr* attribute = nullptr;
  char value[32] = {};
  size_t size = 0;
  if (!answered(api, api->ShapeInferContext_GetAttribute(context, name, &attribute)) ||
      !answered(api,
                api->ReadOpAttr(attribute, ORT_OP_ATTR_STRING, value, sizeof value - 1, &size)))
    return "";
  return value;
}

}  // namespace bitfold::ops
