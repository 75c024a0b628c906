#include "scratch.h"

#include <cstdlib>
#include <new>

namespace bitfold {
namespace {

constexpr std::align_val_t kAlign{64};

// Sanitizers see what exceeds a buffer only where the buffer ends.
#if defined(BITFOLD_EXACT_SCRATCH)
bool fits(size_t held, size_t size) { return held == size; }
size_t grown(size_t size) { return size; }
#else
bool fits(size_t held, size_t size) { return held >= size; }
size_t grown(size_t size) { return (size + size / 4 + 4095) / 4096 * 4096 + 4096; }
#endif

struct Buffer {
  uint8_t* data = nullptr;
  size_t size = 0;
  ~Buffer() { release(); }
  void release() {
    if (data) ::operator delete(data, kAlign);
    data = nullptr;
    size = 0;
  }
};

thread_local Buffer buffers[7];

}  // namespace

uint8_t* thread_scratch(Scratch which, size_t size) {
  Buffer& buffer = buffers[static_cast<int>(which)];
  if (!fits(buffer.size, size) || buffer.data == nullptr) {
    buffer.release();
    buffer.data = static_cast<uint8_t*>(::operator new(grown(size), kAlign, std::nothrow));
    buffer.size = buffer.data ? grown(size) : 0;
  }
  return buffer.data;
}

}  // namespace bitfold
