// Buffers that a thread keeps and reuses from call to call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitfold {

// A thread's buffers: the activations of the call that it makes, a kernel's panel, the rows that a
// convolution gathers for a matrix multiplication, those that a prologue has prepared for one task,
// those of the whole call, what a low-rank branch makes of them, and scores of a row's columns.
enum class Scratch { kActivations, kPanel, kRows, kPrologue, kPrepared, kProjected, kScores };

// At least `size` bytes, 64-byte aligned, valid until this thread asks again for the same
// buffer; null when there is no memory.
uint8_t* thread_scratch(Scratch which, size_t size);

}  // namespace bitfold
