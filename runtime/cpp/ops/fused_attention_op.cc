// FusedAttention for ORT: what runtime/ops/__init__.py specifies.

#include <algorithm>
#include <cmath>
#include <iterator>

#include "../kernels/dispatch.h"
#include "custom_ops.h"

namespace bitfold::ops {
namespace {

constexpr const char* kName = "FusedAttention";
enum Input : size_t {
  kQuery,
  kKey,
  kValue,
  kPastKey,
  kPastValue,
  kLengths,
  kTotal,
  kCos,
  kSin,
  kMask,
  kInputs
};
constexpr const char* kNames[] = {"query",   "key",   "value", "past_key", "past_value",
                                  "lengths", "total", "cos",   "sin",      "mask"};
static_assert(std::size(kNames) == kInputs, "a name for each input");

std::string text(const std::vector<int64_t>& shape) {
  std::string all;
  for (int64_t dim : shape) all += (all.empty() ? "[" : ", ") + std::to_string(dim);
  return all.empty() ? "[]" : all + "]";
}

class AttentionKernel {
 public:
  AttentionKernel(const OrtApi* api, const OrtKernelInfo* info)
      : api_(api), packed_(int_attribute(api, info, "packed", 0, 1)) {
    a_.heads = int_attribute(api, info, "num_heads", 1, kMostHeads);
    a_.kv_heads = int_attribute(api, info, "kv_num_heads", 1, kMostHeads);
    a_.head = int_attribute(api, info, "head_size", 1, kMaxHead);
    a_.causal = int_attribute(api, info, "causal", 0, 1);
    a_.interleaved = int_attribute(api, info, "interleaved", 0, 1);
    a_.scale = float_attribute(api, info, "scale");
    a_.softcap = float_attribute(api, info, "softcap", 0);
    if (a_.heads % a_.kv_heads)
      refuse("attribute 'kv_num_heads': expected a divisor of num_heads = " +
             std::to_string(a_.heads) + ", found " + std::to_string(a_.kv_heads));
    if (!std::isfinite(a_.scale)) refuse("attribute 'scale': expected a finite number");
    if (!std::isfinite(a_.softcap) || a_.softcap < 0)
      refuse("attribute 'softcap': expected a number from 0 on, found " +
             std::to_string(a_.softcap));
    bool has[kInputs];
    for (size_t i = 0; i < kInputs; i++) has[i] = has_input(api, info, i);
    const size_t pairs[][2] = {{kKey, kValue}, {kPastKey, kPastValue}, {kCos, kSin}};
    for (const auto& pair : pairs)
      if (has[pair[0]] != has[pair[1]])
        refuse(std::string("expected both ") + kNames[pair[0]] + " and " + kNames[pair[1]] +
               ", or neither");
    if (packed_ && has[kKey]) refuse("key: expected none beside attribute 'packed'");
    if (!packed_ && !has[kKey] && !has[kPastKey]) refuse("expected keys, found none");
    if (has[kCos] && a_.head % 2)
      refuse("attribute 'head_size': expected an even number to rotate, found " +
             std::to_string(a_.head));
  }

  void compute(OrtKernelContext* context) const {
    Attention a = a_;
    Tensor in[kInputs];
    for (size_t i = 0; i < kInputs; i++) in[i] = input(api_, context, i);
    set_projections(a, in);
    size_t outputs = 0;
    check(api_, api_->KernelContext_GetOutputCount(context, &outputs));
    const bool caches = outputs > 1;
    set_past(a, in, caches);
    set_lengths(a, in, caches);
    set_tables(a, in, caches);
    set_mask(a, in[kMask]);
    const int64_t y[] = {a.batch, a.queries, a.heads * a.head};
    a.y = output(api_, context, y, 3);
    if (caches) {
      const int64_t present[] = {a.batch, a.kv_heads, a.present, a.head};
      a.present_key = output(api_, context, present, 4, 1);
      a.present_value = output(api_, context, present, 4, 2);
    }
    Threads threads{api_, context};
    if (!run_attention(kernels()->attention, a, parallel_for, &threads))
      refuse("no memory for " + std::to_string(a.present) + " keys");
  }

 private:
  static constexpr int64_t kMostHeads = 1 << 16;

  // The data of an input of float32 and `rank` axes.
  static const float* floats(const Tensor& tensor, size_t index, size_t rank) {
    if (tensor.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || tensor.shape.size() != rank)
      refuse(std::string(kNames[index]) + ": expected float32 of " + std::to_string(rank) +
             " axes, found " + text(tensor.shape));
    return static_cast<const float*>(tensor.data);
  }

  // Refuses another shape than the expected one, of which -1 stands for any size.
  static void expect(const Tensor& tensor, size_t index, const std::vector<int64_t>& shape) {
    bool same = tensor.shape.size() == shape.size();
    for (size_t i = 0; same && i < shape.size(); i++)
      same = shape[i] < 0 || shape[i] == tensor.shape[i];
    if (!same)
      refuse(std::string(kNames[index]) + ": expected shape " + text(shape) + ", found " +
             text(tensor.shape));
  }

  void set_projections(Attention& a, const Tensor* in) const {
    const int64_t kv = a.kv_heads * a.head, q = a.heads * a.head;
    a.query = floats(in[kQuery], kQuery, 3);
    a.query_stride = packed_ ? q + 2 * kv : q;
    expect(in[kQuery], kQuery, {-1, -1, a.query_stride});
    a.batch = in[kQuery].shape[0];
    a.queries = in[kQuery].shape[1];
    a.key_stride = a.value_stride = packed_ ? a.query_stride : kv;
    if (packed_) {
      a.added = a.queries;
      a.key = a.query + q;
      a.value = a.key + kv;
    } else if (in[kKey].data) {
      a.key = floats(in[kKey], kKey, 3);
      a.value = floats(in[kValue], kValue, 3);
      expect(in[kKey], kKey, {a.batch, -1, kv});
      a.added = in[kKey].shape[1];
      expect(in[kValue], kValue, {a.batch, a.added, kv});
    }
    if (a.causal && a.added != a.queries)
      refuse("attribute 'causal': expected a new key for each of " + std::to_string(a.queries) +
             " queries, found " + std::to_string(a.added));
  }

  void set_past(Attention& a, const Tensor* in, bool caches) const {
    if (in[kPastKey].data) {
      a.past_key = floats(in[kPastKey], kPastKey, 4);
      a.past_value = floats(in[kPastValue], kPastValue, 4);
      expect(in[kPastKey], kPastKey, {a.batch, a.kv_heads, -1, a.head});
      a.past = in[kPastKey].shape[2];
      expect(in[kPastValue], kPastValue, {a.batch, a.kv_heads, a.past, a.head});
      if (!caches && a.past && a.added) refuse("expected outputs for new keys after past ones");
      if (!caches && a.added) a.past_key = a.past_value = nullptr;
    }
    a.present = a.past + a.added;
    if (in[kTotal].data == nullptr || !caches) return;
    if (in[kTotal].type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 || in[kTotal].count != 1)
      refuse("total: expected one int64, found " + text(in[kTotal].shape));
    const int64_t total = *static_cast<const int64_t*>(in[kTotal].data);
    if (total < 0 || total > a.past + a.added)
      refuse("total: expected 0 to " + std::to_string(a.past + a.added) + ", found " +
             std::to_string(total));
    a.present = std::max(a.past, total);
  }

  void set_lengths(Attention& a, const Tensor* in, bool caches) const {
    if (in[kLengths].data) {
      if (in[kLengths].type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
        refuse("lengths: expected int64");
      expect(in[kLengths], kLengths, {a.batch});
      a.lengths = static_cast<const int64_t*>(in[kLengths].data);
    }
    for (int64_t b = 0; b < a.batch; b++) {
      const int64_t keys = keys_of(&a, b), start = keys < a.added ? 0 : keys - a.added;
      // New keys go behind past ones, and into the cache if there is one.
      if (keys < 0 || start > a.past || start + a.added > (caches ? a.present : a.past + a.added))
        refuse("lengths: expected at most " + std::to_string(a.past) + " past and " +
               std::to_string(a.added) + " new keys in room for " + std::to_string(a.present) +
               ", found " + std::to_string(keys));
    }
  }

  void set_tables(Attention& a, const Tensor* in, bool caches) const {
    if (in[kCos].data == nullptr) return;
    if (!caches || a.added != a.queries)
      refuse("cos: expected a new key for each query and outputs for the caches");
    a.cos = floats(in[kCos], kCos, 2);
    a.sin = floats(in[kSin], kSin, 2);
    expect(in[kCos], kCos, {-1, a.head / 2});
    expect(in[kSin], kSin, in[kCos].shape);
    for (int64_t b = 0; b < a.batch; b++)
      if (start_of(&a, b) + a.added > in[kCos].shape[0])
        refuse("cos: expected " + std::to_string(start_of(&a, b) + a.added) +
               " positions, found " + std::to_string(in[kCos].shape[0]));
  }

  // The mask has the shape of the scores, or 1, or no such axis, where it is the same for all.
  void set_mask(Attention& a, const Tensor& mask) const {
    if (mask.data == nullptr) return;
    const int64_t scores[] = {a.batch, a.heads, a.queries, a.present};
    int64_t strides[4] = {}, floats_below = 1;
    bool fits = mask.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && !mask.shape.empty() &&
                mask.shape.size() <= 4;
    for (size_t i = 0; fits && i < mask.shape.size(); i++) {
      const int64_t size = mask.shape[mask.shape.size() - 1 - i];
      fits = size == scores[3 - i] || size == 1;
      strides[3 - i] = size == 1 ? 0 : floats_below;
      floats_below *= size;
    }
    if (!fits)
      refuse("mask: expected float32 that is broadcast to " +
             text({std::begin(scores), std::end(scores)}) + ", found " + text(mask.shape));
    const float* values = static_cast<const float*>(mask.data);
    // One that is the same for all heads and queries says which keys are padding: often none is.
    if (strides[1] == 0 && strides[2] == 0 &&
        std::all_of(values, values + mask.count, [](float value) { return value == 0; }))
      return;
    a.mask = values;
    a.mask_batch = strides[0], a.mask_head = strides[1];
    a.mask_query = strides[2], a.mask_key = strides[3];
  }

  const OrtApi* api_;
  bool packed_;
  Attention a_{};
};

OrtStatus* BITFOLD_ORT_CALL create(const OrtCustomOp*, const OrtApi* api,
                                   const OrtKernelInfo* info, void** kernel) {
  return guarded(api, kName, [&] { *kernel = new KernelOf<AttentionKernel>(api, info); });
}

ONNXTensorElementDataType BITFOLD_ORT_CALL input_type(const OrtCustomOp*, size_t index) {
  return index == kLengths || index == kTotal ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
                                              : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

OrtStatus* BITFOLD_ORT_CALL infer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi* api = api_of(op);
  return guarded(api, kName, [&] {
    const int64_t heads = inferred_int(api, context, "num_heads");
    const int64_t head = inferred_int(api, context, "head_size");
    if (heads > 0 && heads < 1 << 16 && head > 0 && head <= kMaxHead)
      infer_last(api, context, kQuery, heads * head, false);
  });
}

}  // namespace

CustomOp fused_attention_op(const OrtApi* api) {
  CustomOp op = custom_op<AttentionKernel>(api);
  op.GetName = [](const OrtCustomOp*) { return kName; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputs; };
  op.GetInputType = input_type;
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == kQuery ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 3; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  op.CreateKernelV2 = create;
  op.InferOutputShapeFn = infer;
  return op;
}

}  // namespace bitfold::ops
