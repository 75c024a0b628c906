// Operand bytes times int8 activations in 256-bit registers, on AVX2 or, where the translation
// unit is built for it, AVX-VNNI.
//
// Internal linkage throughout: only translation units built for AVX2 include this.
#pragma once

#include <immintrin.h>

#include "../packed_weight.h"

namespace bitfold {
namespace {

// How operand bytes u are multiplied, by what 16 bits can hold.
enum Range {
  kNarrow,  // u <= 31: vpmaddubsw sums of 16 input channels fit
  kWide,    // u <= 127: those of two do
  kSigned,  // else: |u - 128| times the activation with the sign of u - 128
  kAny,     // vpdpbusd: any byte, summed in 32 bits
};

inline Range range_of(const PackedWeight* w) {
  if (w->has_table || w->bits == 8) return kSigned;
  return w->bits <= 5 ? kNarrow : kWide;
}

// Add 4 * STEPS input channels, at most 16, of R rows to sums of H halves of a tile: operand
// bytes from `line` on, and four activations for every step and row.
template <int RANGE, int STEPS, int R, int H, class Activations>
inline __attribute__((always_inline)) void add_products(__m256i (&acc)[R][H], const uint8_t* line,
                                                        Activations activations) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i pairs[R][H];
  for (int s = 0; s < STEPS; s++) {
    __m256i u[H], level[H];
    for (int h = 0; h < H; h++) {
      u[h] = _mm256_loadu_si256((const __m256i*)(line + s * kLine + 32 * h));
      if (RANGE != kSigned) continue;
      level[h] = _mm256_xor_si256(u[h], _mm256_set1_epi8((char)0x80));
      u[h] = _mm256_abs_epi8(level[h]);
    }
    for (int r = 0; r < R; r++) {
      const __m256i a = _mm256_set1_epi32(activations(s, r));
      for (int h = 0; h < H; h++) {
#if defined(__AVXVNNI__)
        if (RANGE == kAny) {
          acc[r][h] = _mm256_dpbusd_avx_epi32(acc[r][h], u[h], a);
          continue;
        }
#endif
        const __m256i signed_a = RANGE == kSigned ? _mm256_sign_epi8(a, level[h]) : a;
        const __m256i product = _mm256_maddubs_epi16(u[h], signed_a);
        if (RANGE == kNarrow) {
          pairs[r][h] = s == 0 ? product : _mm256_add_epi16(pairs[r][h], product);
        } else {
          acc[r][h] = _mm256_add_epi32(acc[r][h], _mm256_madd_epi16(product, ones));
        }
      }
    }
  }
  if (RANGE != kNarrow) return;
  for (int r = 0; r < R; r++)
    for (int h = 0; h < H; h++)
      acc[r][h] = _mm256_add_epi32(acc[r][h], _mm256_madd_epi16(pairs[r][h], ones));
}

}  // namespace
}  // namespace bitfold
