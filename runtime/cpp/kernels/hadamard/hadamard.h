// Blocks of floats times an orthonormal Hadamard matrix, base (x) Sylvester; plain data.
//
// A block of m * 2^n floats, seen as x[m][2^n], becomes base^T . x . S / sqrt(m 2^n), S being
// Sylvester's matrix: first butterflies over runs of 2^n, then sums over m with the base's signs.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bitfold {

struct Hadamard {
  int64_t size;   // m * 2^n
  int32_t base;   // m: 1, or a multiple of 4
  int32_t bits;   // n
  float scale;    // 1 / sqrt(size)
  // [m][m / 4]: output j takes entry 16 g + p for the inputs 4g to 4g + 3; bit i of p is set where
  // base[4g + i][j] is -1.  Null where m is 1.
  const uint16_t* signs;
};

// Scratch floats that a kernel needs: 16 sums of every four rows of up to 16 columns.
static inline int64_t hadamard_scratch(const Hadamard* h) {
  return h->base == 1 ? 0 : (int64_t)h->base / 4 * 16 * 16;
}

// y = blocks of x, transformed; y may be x.  `scratch` is aligned to 64 bytes.
typedef void (*HadamardBlocks)(const Hadamard* h, const float* x, float* y, int64_t blocks,
                               float* scratch);

void hadamard_ref(const Hadamard* h, const float* x, float* y, int64_t blocks, float* scratch);
#if defined(BITFOLD_X86)
void hadamard_avx2(const Hadamard* h, const float* x, float* y, int64_t blocks, float* scratch);
void hadamard_avx512(const Hadamard* h, const float* x, float* y, int64_t blocks, float* scratch);
#elif defined(BITFOLD_ARM64)
void hadamard_neon(const Hadamard* h, const float* x, float* y, int64_t blocks, float* scratch);
#endif

}  // namespace bitfold
