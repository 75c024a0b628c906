#include "weight_bytes.h"

#include <atomic>
#include <fstream>

namespace bitfold::ops {
namespace {

constexpr int64_t kUsualCache = 16 << 20;
// What the cores near this one share; sysconf gives what all cores of a chip have together.
constexpr const char* kCacheFile = "/sys/devices/system/cpu/cpu0/cache/index3/size";
std::atomic<int64_t> total{0};

int64_t largest_cache() {
  int64_t kilobytes = 0;
  std::ifstream file(kCacheFile);  // "32768K"
  return file >> kilobytes && kilobytes > 0 ? kilobytes << 10 : kUsualCache;
}

}  // namespace

WeightBytes::WeightBytes(int64_t bytes) : bytes_(bytes) { total += bytes; }

WeightBytes::~WeightBytes() { total -= bytes_; }

bool WeightBytes::exceed_cache() {
  static const int64_t cache = largest_cache();
  return total.load(std::memory_order_relaxed) > cache;
}

}  // namespace bitfold::ops
