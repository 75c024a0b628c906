// The slice of ONNX Runtime's C ABI that bitfold's operators use.
//
// The onnxruntime wheel ships no headers, and installing bitfold must need only a C++17
// compiler.  ORT's function table and the custom-op struct are append-only across releases, so
// their leading entries, in order, are a stable fact; entries that are not used are padding.
// tests/runtime/test_kernels_ort_abi.py compares every name here with the official header.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define BITFOLD_ORT_CALL __stdcall
#else
#define BITFOLD_ORT_CALL
#endif

namespace bitfold::ort {

// The oldest version with KernelContext_ParallelFor and shape inference for custom ops.
constexpr uint32_t kApiVersion = 17;
constexpr const char* kApiRelease = "1.17";

// Opaque to us: only pointers to them are passed around.
struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtOpAttr;
struct OrtCustomOp;

enum OrtErrorCode : int { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_NOT_IMPLEMENTED = 9 };

enum ONNXTensorElementDataType : int {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 = 3,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 = 16,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN = 17,
};

enum OrtCustomOpInputOutputCharacteristic : int {
  INPUT_OUTPUT_REQUIRED = 0,
  INPUT_OUTPUT_OPTIONAL = 1,
  INPUT_OUTPUT_VARIADIC = 2,
};

enum OrtMemType : int { OrtMemTypeDefault = 0 };

enum OrtOpAttrType : int { ORT_OP_ATTR_INT = 1, ORT_OP_ATTR_INTS = 2, ORT_OP_ATTR_STRING = 5 };

using Unused = void (*)();

// A gap of n entries of the function table, the last of which precedes the next name.
#define BITFOLD_GAP(from, to) Unused unused_##from[(to) - (from)]

struct OrtApi {
  OrtStatus*(BITFOLD_ORT_CALL* CreateStatus)(OrtErrorCode code, const char* message);  // 0
  Unused unused_1;
  const char*(BITFOLD_ORT_CALL* GetErrorMessage)(const OrtStatus* status);  // 2
  BITFOLD_GAP(3, 26);
  OrtStatus*(BITFOLD_ORT_CALL* CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** out);
  OrtStatus*(BITFOLD_ORT_CALL* CustomOpDomain_Add)(OrtCustomOpDomain* domain,
                                                   const OrtCustomOp* op);
  OrtStatus*(BITFOLD_ORT_CALL* AddCustomOpDomain)(OrtSessionOptions* options,
                                                  OrtCustomOpDomain* domain);  // 28
  BITFOLD_GAP(29, 51);
  OrtStatus*(BITFOLD_ORT_CALL* GetTensorMutableData)(OrtValue* value, void** out);  // 51
  BITFOLD_GAP(52, 57);
  OrtStatus*(BITFOLD_ORT_CALL* CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo** out);
  OrtStatus*(BITFOLD_ORT_CALL* SetTensorElementType)(OrtTensorTypeAndShapeInfo* info,
                                                     ONNXTensorElementDataType type);
  OrtStatus*(BITFOLD_ORT_CALL* SetDimensions)(OrtTensorTypeAndShapeInfo* info,
                                              const int64_t* dims, size_t count);
  OrtStatus*(BITFOLD_ORT_CALL* GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info,
                                                     ONNXTensorElementDataType* out);
  OrtStatus*(BITFOLD_ORT_CALL* GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info,
                                                   size_t* out);
  OrtStatus*(BITFOLD_ORT_CALL* GetDimensions)(const OrtTensorTypeAndShapeInfo* info,
                                              int64_t* dims, size_t count);
  OrtStatus*(BITFOLD_ORT_CALL* GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo* info,
                                                      const char** names, size_t count);
  OrtStatus*(BITFOLD_ORT_CALL* GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo* info,
                                                           size_t* out);
  OrtStatus*(BITFOLD_ORT_CALL* GetTensorTypeAndShape)(const OrtValue* value,
                                                      OrtTensorTypeAndShapeInfo** out);  // 65
  BITFOLD_GAP(66, 85);
  OrtStatus*(BITFOLD_ORT_CALL* KernelInfoGetAttribute_float)(const OrtKernelInfo* info,
                                                             const char* name, float* out);
  OrtStatus*(BITFOLD_ORT_CALL* KernelInfoGetAttribute_int64)(const OrtKernelInfo* info,
                                                             const char* name, int64_t* out);
  OrtStatus*(BITFOLD_ORT_CALL* KernelInfoGetAttribute_string)(const OrtKernelInfo* info,
                                                              const char* name, char* out,
                                                              size_t* size);
  OrtStatus*(BITFOLD_ORT_CALL* KernelContext_GetInputCount)(const OrtKernelContext* context,
                                                            size_t* out);
  OrtStatus*(BITFOLD_ORT_CALL* KernelContext_GetOutputCount)(const OrtKernelContext* context,
                                                             size_t* out);
  OrtStatus*(BITFOLD_ORT_CALL* KernelContext_GetInput)(const OrtKernelContext* context,
                                                       size_t index, const OrtValue** out);
  OrtStatus*(BITFOLD_ORT_CALL* KernelContext_GetOutput)(OrtKernelContext* context, size_t index,
                                                        const int64_t* dims, size_t count,
                                                        OrtValue** out);  // 91
  Unused unused_92;
  void(BITFOLD_ORT_CALL* ReleaseStatus)(OrtStatus* status);  // 93
  BITFOLD_GAP(94, 99);
  void(BITFOLD_ORT_CALL* ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);  // 99
  BITFOLD_GAP(100, 162);
  OrtStatus*(BITFOLD_ORT_CALL* KernelInfoGetAttributeArray_float)(const OrtKernelInfo* info,
                                                                  const char* name, float* out,
                                                                  size_t* size);
  OrtStatus*(BITFOLD_ORT_CALL* KernelInfoGetAttributeArray_int64)(const OrtKernelInfo* info,
                                                                  const char* name, int64_t* out,
                                                                  size_t* size);  // 163
  BITFOLD_GAP(164, 230);
  OrtStatus*(BITFOLD_ORT_CALL* KernelInfo_GetInputCount)(const OrtKernelInfo* info, size_t* out);
  Unused unused_231;
  OrtStatus*(BITFOLD_ORT_CALL* KernelInfo_GetInputName)(const OrtKernelInfo* info, size_t index,
                                                        char* out, size_t* size);  // 232
  BITFOLD_GAP(233, 249);
  OrtStatus*(BITFOLD_ORT_CALL* KernelInfoGetConstantInput_tensor)(const OrtKernelInfo* info,
                                                                  size_t index, int* is_constant,
                                                                  const OrtValue** out);  // 249
  BITFOLD_GAP(250, 268);
  OrtStatus*(BITFOLD_ORT_CALL* ShapeInferContext_GetInputTypeShape)(
      const OrtShapeInferContext* context, size_t index, OrtTensorTypeAndShapeInfo** info);
  OrtStatus*(BITFOLD_ORT_CALL* ShapeInferContext_GetAttribute)(const OrtShapeInferContext* context,
                                                               const char* name,
                                                               const OrtOpAttr** out);
  OrtStatus*(BITFOLD_ORT_CALL* ShapeInferContext_SetOutputTypeShape)(
      const OrtShapeInferContext* context, size_t index, const OrtTensorTypeAndShapeInfo* info);
  OrtStatus*(BITFOLD_ORT_CALL* SetSymbolicDimensions)(OrtTensorTypeAndShapeInfo* info,
                                                      const char** names, size_t count);
  OrtStatus*(BITFOLD_ORT_CALL* ReadOpAttr)(const OrtOpAttr* attribute, OrtOpAttrType type,
                                           void* data, size_t size, size_t* out);
  Unused unused_273;
  OrtStatus*(BITFOLD_ORT_CALL* KernelContext_ParallelFor)(const OrtKernelContext* context,
                                                          void (*fn)(void*, size_t), size_t total,
                                                          size_t num_batch, void* data);  // 274
};
#undef BITFOLD_GAP

static_assert(offsetof(OrtApi, KernelContext_ParallelFor) == 274 * sizeof(void*),
              "the function table is in ORT's order");

struct OrtApiBase {
  const OrtApi*(BITFOLD_ORT_CALL* GetApi)(uint32_t version);
  const char*(BITFOLD_ORT_CALL* GetVersionString)();
};

// Up to the entries of version 17; a null entry means ORT's default.
struct OrtCustomOp {
  uint32_t version;
  Unused CreateKernel;
  const char*(BITFOLD_ORT_CALL* GetName)(const OrtCustomOp* op);
  const char*(BITFOLD_ORT_CALL* GetExecutionProviderType)(const OrtCustomOp* op);
  ONNXTensorElementDataType(BITFOLD_ORT_CALL* GetInputType)(const OrtCustomOp* op, size_t index);
  size_t(BITFOLD_ORT_CALL* GetInputTypeCount)(const OrtCustomOp* op);
  ONNXTensorElementDataType(BITFOLD_ORT_CALL* GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t(BITFOLD_ORT_CALL* GetOutputTypeCount)(const OrtCustomOp* op);
  void(BITFOLD_ORT_CALL* KernelCompute)(void* kernel, OrtKernelContext* context);
  void(BITFOLD_ORT_CALL* KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic(BITFOLD_ORT_CALL* GetInputCharacteristic)(
      const OrtCustomOp* op, size_t index);
  OrtCustomOpInputOutputCharacteristic(BITFOLD_ORT_CALL* GetOutputCharacteristic)(
      const OrtCustomOp* op, size_t index);
  OrtMemType(BITFOLD_ORT_CALL* GetInputMemoryType)(const OrtCustomOp* op, size_t index);
  int(BITFOLD_ORT_CALL* GetVariadicInputMinArity)(const OrtCustomOp* op);
  int(BITFOLD_ORT_CALL* GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int(BITFOLD_ORT_CALL* GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int(BITFOLD_ORT_CALL* GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  OrtStatus*(BITFOLD_ORT_CALL* CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api,
                                               const OrtKernelInfo* info, void** kernel);
  OrtStatus*(BITFOLD_ORT_CALL* KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus*(BITFOLD_ORT_CALL* InferOutputShapeFn)(const OrtCustomOp* op,
                                                   OrtShapeInferContext* context);
  int(BITFOLD_ORT_CALL* GetStartVersion)(const OrtCustomOp* op);
  int(BITFOLD_ORT_CALL* GetEndVersion)(const OrtCustomOp* op);
  size_t(BITFOLD_ORT_CALL* GetMayInplace)(int** inputs, int** outputs);
  void(BITFOLD_ORT_CALL* ReleaseMayInplace)(int* inputs, int* outputs);
  size_t(BITFOLD_ORT_CALL* GetAliasMap)(int** inputs, int** outputs);
  void(BITFOLD_ORT_CALL* ReleaseAliasMap)(int* inputs, int* outputs);
};

}  // namespace bitfold::ort
