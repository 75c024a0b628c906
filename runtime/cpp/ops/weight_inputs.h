// The packed weight of a node: its attributes and inputs, checked before any kernel sees them.
#pragma once

#include <vector>

#include "../kernels/packed_weight.h"
#include "node.h"

namespace bitfold::ops {

// Where a node has the weight's inputs.
struct WeightInputs {
  static constexpr size_t kCount = 4;
  size_t packed, scales, zero_points, table;
};

// The largest size that is taken: of a weight's rows, of its columns.
constexpr int64_t kLargest = int64_t{1} << 30;

// Values of the attribute `layout`.  1 and 2 were the same but for codes of 3 and 7 bits.
enum Layout : int64_t { kDense = 3, kMasked = 4 };

// Rows, columns and tiles of a packed weight.
struct WeightShape {
  int64_t n, k, tiles;
};

class Weight {
 public:
  // Reads the attributes N, K, bits, group_size, layout and scale_factor, and those inputs that are constant.
  // `paired`: gate and up rows are tiled apart.  `last`: the last layout that the operator takes.
  // Throws Refusal.
  Weight(const OrtApi* api, const OrtKernelInfo* info, WeightInputs where, bool paired,
         Layout last = kDense);

  // The same for a weight whose shape follows from other attributes than N and K.
  Weight(const OrtApi* api, const OrtKernelInfo* info, WeightInputs where, WeightShape shape,
         Layout last = kDense);
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;

  // Every input is constant and checked: `value()` holds for good.
  bool complete() const { return complete_; }
  const PackedWeight& value() const { return weight_; }

  // The weight of one call whose inputs are not all constant; `first_lines` is kept as long as it.
  // Throws Refusal.
  PackedWeight at(const OrtApi* api, const OrtKernelContext* context,
                  std::vector<int64_t>* first_lines = nullptr) const;

  // Bytes of the packed codes.
  int64_t bytes() const { return bytes_; }

 private:
  void set_packed(PackedWeight& w, const Tensor& tensor, std::vector<int64_t>* first_lines) const;
  void set_scales(PackedWeight& w, const Tensor& tensor) const;
  void set_zero_points(PackedWeight& w, const Tensor& tensor) const;
  void set_table(PackedWeight& w, const Tensor& tensor) const;

  WeightInputs where_;
  Layout layout_;
  PackedWeight weight_{};
  std::vector<int64_t> first_lines_;  // of a masked weight
  int64_t bytes_ = 0;
  bool complete_ = false;
  bool has_factor_ = false;
};

// Refuse a weight whose levels are floats.
void expect_integers(const PackedWeight& w);

}  // namespace bitfold::ops
