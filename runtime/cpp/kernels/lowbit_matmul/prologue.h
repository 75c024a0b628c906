// What is done to a row of X before it is quantized: RMSNorm, a Hadamard transform, scales of its
// inputs.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../hadamard/hadamard.h"

namespace bitfold {

struct Prologue {
  const float* gain;    // [k], or null for no norm
  float epsilon;
  Hadamard hadamard;    // size 0 for none
  const float* scales;  // [k], or null for none
};

static inline bool has_prologue(const Prologue* p) {
  return p->gain || p->hadamard.size || p->scales;
}

// Scratch floats that a row's preparation needs.
static inline int64_t prologue_scratch(const Prologue* p) {
  return p->hadamard.size ? hadamard_scratch(&p->hadamard) : 0;
}

// y [k] = x [k], prepared.  `scratch` is aligned to 64 bytes.
typedef void (*PrepareRow)(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);

void prepare_row_ref(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);
#if defined(BITFOLD_X86)
void prepare_row_avx2(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);
void prepare_row_avx512(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);
#elif defined(BITFOLD_ARM64)
void prepare_row_neon(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);
#endif

}  // namespace bitfold
