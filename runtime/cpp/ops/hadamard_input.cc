#include "hadamard_input.h"

#include <cmath>

#include "weight_inputs.h"

namespace bitfold::ops {

HadamardInput::HadamardInput(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                             size_t index) {
  const int64_t size = int_attribute(api, info, name, 1, kLargest);
  value_.base = 1;
  if (has_input(api, info, index)) {
    const Tensor base = constant_input(api, info, index);
    if (!base.data) refuse("Hadamard base: expected a constant");
    read_base(base);
  }
  value_.size = size;
  int64_t run = size / value_.base;
  while (run > 1 && run % 2 == 0) run /= 2, value_.bits++;
  if (run != 1 || size % value_.base != 0)
    refuse(std::string("attribute '") + name + "': expected " +
           (value_.base > 1 ? std::to_string(value_.base) + " times " : std::string()) +
           "a power of two, found " + std::to_string(size));
  value_.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
}

void HadamardInput::read_base(const Tensor& base) {
  const int64_t m = base.shape.empty() ? 0 : base.shape[0];
  if (base.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 || base.shape.size() != 2 ||
      base.shape[1] != m || m % 4 != 0 || m < 4 || m > kMostBase)
    refuse("Hadamard base: expected int8 [m, m], m a multiple of 4 up to " +
           std::to_string(kMostBase) + ", found " + std::to_string(base.count) + " elements");
  const int8_t* entries = static_cast<const int8_t*>(base.data);
  signs_.assign(static_cast<size_t>(m * m / 4), 0);
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < m; j++) {
      const int8_t entry = entries[i * m + j];
      if (entry != 1 && entry != -1)
        refuse("Hadamard base: expected entries 1 and -1, found " + std::to_string(entry));
      uint16_t& signs = signs_[static_cast<size_t>(j * (m / 4) + i / 4)];
      signs = static_cast<uint16_t>((signs & 15) | i / 4 * 16 | (entry < 0) << i % 4);
    }
  value_.base = static_cast<int32_t>(m);
  value_.signs = signs_.data();
}

}  // namespace bitfold::ops
