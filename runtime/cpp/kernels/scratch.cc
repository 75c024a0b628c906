#include "scratch.h"

#include <cstdlib>
#include <new>

namespace bitfold {
namespace {

constexpr std::align_val_t kAlign{64};

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

thread_local Buffer buffers[3];

}  // namespace

uint8_t* thread_scratch(Scratch which, size_t size) {
  Buffer& buffer = buffers[static_cast<int>(which)];
  if (buffer.size < size || buffer.data == nullptr) {
    buffer.release();
    size_t grown = (size + size / 4 + 4095) / 4096 * 4096 + 4096;
    buffer.data = static_cast<uint8_t*>(::operator new(grown, kAlign, std::nothrow));
    buffer.size = buffer.data ? grown : 0;
  }
  return buffer.data;
}

}  // namespace bitfold
