// The weights of all open models together: what a cache keeps from one run to the next.
#pragma once

#include <cstdint>

namespace bitfold::ops {

// Counts a node's weight for as long as it lives.
class WeightBytes {
 public:
  explicit WeightBytes(int64_t bytes);
  ~WeightBytes();
  WeightBytes(const WeightBytes&) = delete;
  WeightBytes& operator=(const WeightBytes&) = delete;

  // Whether all that are counted are more than this machine's largest cache holds.
  static bool exceed_cache();

 private:
  int64_t bytes_;
};

}  // namespace bitfold::ops
