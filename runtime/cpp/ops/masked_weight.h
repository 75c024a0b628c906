// Checks of a weight in the masked layout (runtime/layouts/masked.py), whose bytes say themselves
// how many they are.
#pragma once

#include <vector>

#include "../kernels/packed_weight.h"
#include "node.h"

namespace bitfold::ops {

// Point w at the masks and lines in `tensor`, and fill `first_lines`, which w points at then: all
// masks are read, so that lines lie within the tensor whatever they hold.  Throws Refusal.
void set_masked(PackedWeight& w, const Tensor& tensor, std::vector<int64_t>* first_lines);

// Refuse a weight whose format has no operand for zero; find the code for it in a table of floats.
void expect_zeros(PackedWeight& w);

}  // namespace bitfold::ops
