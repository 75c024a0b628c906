// Buffers that a thread keeps and reuses from call to call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitfold {

// A thread's buffers: the activations of the call that it makes, a kernel's panel, the rows that a
// convolution gathers for a matrix multiplication, and those that a prologue has prepared.
enum class Scratch { kActivations, kPanel, kRows, kPrologue };

// At least `size` bytes, 64-byte aligned, valid until this thread asks again for the same
// buffer; null when there is no memory.
uint8_t* thread_scratch(Scratch which, size_t size);

}  // namespace bitfold
