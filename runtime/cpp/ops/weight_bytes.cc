#include "weight_bytes.h"

#include <atomic>

#if defined(__unix__)
#include <unistd.h>
#endif

namespace bitfold::ops {
namespace {

constexpr int64_t kUsualCache = 16 << 20;
std::atomic<int64_t> total{0};

int64_t largest_cache() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const int64_t found = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (found > 0) return found;
#endif
  return kUsualCache;
}

}  // namespace

WeightBytes::WeightBytes(int64_t bytes) : bytes_(bytes) { total += bytes; }

WeightBytes::~WeightBytes() { total -= bytes_; }

bool WeightBytes::exceed_cache() {
  static const int64_t cache = largest_cache();
  return total.load(std::memory_order_relaxed) > cache;
}

}  // namespace bitfold::ops
