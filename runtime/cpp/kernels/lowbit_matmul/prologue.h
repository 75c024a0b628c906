// What is done to a row of X before it is quantized: RMSNorm, a Hadamard transform, then the columns
// that weigh least are taken as zeros, and the inputs are scaled.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../hadamard/hadamard.h"

namespace bitfold {

struct Skip {
  const float* norms;  // [k], or null where no column is skipped
  float keep;          // share that is not, above 0 and up to 1
};

struct Prologue {
  const float* gain;    // [k], or null for no norm
  float epsilon;
  Hadamard hadamard;    // size 0 for none
  Skip skip;            // not beside scales
  const float* scales;  // [k], or null for none
};

static inline bool is_transformed(const Prologue* p) {
  return p->gain || p->hadamard.size || p->scales;
}
static inline bool has_prologue(const Prologue* p) { return is_transformed(p) || p->skip.norms; }

// Scratch floats that a row's preparation needs.
static inline int64_t prologue_scratch(const Prologue* p) {
  return p->hadamard.size ? hadamard_scratch(&p->hadamard) : 0;
}

// y [k] = x [k], transformed.  `scratch` is aligned to 64 bytes.
typedef void (*PrepareRow)(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);

void prepare_row_ref(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);
#if defined(BITFOLD_X86)
void prepare_row_avx2(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);
void prepare_row_avx512(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);
#elif defined(BITFOLD_ARM64)
void prepare_row_neon(const Prologue* p, const float* x, float* y, int64_t k, float* scratch);
#endif

}  // namespace bitfold
