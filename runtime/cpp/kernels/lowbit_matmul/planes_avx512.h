// Bit-plane products on AVX-512, whatever counts bits: 512 products of bits in three instructions,
// and, popcount, and vpdpbusd, which weighs the counts of bytes and adds them up.  Counts that have
// no weight are those of words, where there are such: vpdpbusd may wait for the units that count.
//
// Internal linkage throughout: only translation units built for AVX-512 include this.
#pragma once

#include "matmul_avx512.h"
#include "planes.h"

namespace bitfold {
namespace {

// a where the mask has ones, else b.
inline __m512i either(__m512i mask, __m512i a, __m512i b) {
  return _mm512_ternarylogic_epi32(mask, a, b, 0xCA);
}

// Two lines of fields of 2 * WIDTH bits: their lower halves, and their upper halves.
template <int WIDTH>
inline void halves(__m512i first, __m512i second, __m512i* lower, __m512i* upper) {
  const __m512i mask = _mm512_set1_epi8(WIDTH == 1 ? 0x55 : 0x33);
  *lower = either(mask, first, _mm512_slli_epi32(second, WIDTH));
  *upper = either(mask, _mm512_srli_epi32(first, WIDTH), second);
}

// What x has at the bits of a mask, beside `others`.
inline __m512i beside(__m512i others, __m512i x, char mask) {
  return _mm512_ternarylogic_epi32(x, _mm512_set1_epi8(mask), others, 0xEA);
}

// Sums that begin alike are loaded one by one: GCC would copy a shared register in each round.
inline __m512i broadcast(const int32_t* from) {
  __m512i all;
  __asm__ volatile("vpbroadcastd %1, %0" : "=v"(all) : "m"(*from));
  return all;
}

// The planes of a chunk of packed codes; see channel_of_bit.
template <int BITS>
inline void load_planes(const uint8_t* chunk, __m512i* plane) {
  __m512i line[BITS];
  BITFOLD_UNROLL
  for (int i = 0; i < BITS; i++) line[i] = _mm512_loadu_si512(chunk + i * kLine);
  if constexpr (BITS == 1) {
    plane[0] = line[0];
  } else if constexpr (BITS == 2) {
    halves<1>(line[0], line[1], &plane[0], &plane[1]);
  } else if constexpr (BITS == 3) {
    // Bit i of two steps is in bits i and i + 3 of each line: in turn, three of a kind.  Behind
    // these come steps 7 and 6, of which line 2 has the lowest bits.
    const __m512i none = _mm512_setzero_si512();
    const auto up = [](__m512i x, int by) { return _mm512_slli_epi32(x, by); };
    const auto down = [](__m512i x, int by) { return _mm512_srli_epi32(x, by); };
    plane[0] = beside(beside(none, line[0], 0x09), up(line[1], 1), 0x12);
    plane[0] = beside(beside(plane[0], up(line[2], 2), 0x24), line[2], (char)0xC0);
    plane[1] = beside(beside(none, down(line[0], 1), 0x09), line[1], 0x52);
    plane[1] = beside(beside(plane[1], up(line[2], 1), 0x24), up(line[0], 1), (char)0x80);
    plane[2] = beside(beside(none, down(line[0], 2), 0x09), down(line[1], 1), 0x52);
    plane[2] = beside(beside(plane[2], line[2], 0x24), line[0], (char)0x80);
  } else {
    __m512i even[2], odd[2];
    halves<1>(line[0], line[1], &even[0], &odd[0]);
    halves<1>(line[2], line[3], &even[1], &odd[1]);
    halves<2>(even[0], even[1], &plane[0], &plane[2]);
    halves<2>(odd[0], odd[1], &plane[1], &plane[3]);
  }
}

// Beyond two bits, planes are made once a tile; up to two, on the way to their products.
template <int BITS>
constexpr bool kMadeAhead = BITS > 2;

template <int BITS>
void make_planes(const PackedWeight* w, int32_t tile, uint8_t* out) {
  const uint8_t* chunk = w->packed + tile * tile_bytes(w);
  for (int32_t c = 0; c < w->chunks; c++, chunk += BITS * kLine, out += BITS * kLine) {
    __m512i plane[BITS];
    load_planes<BITS>(chunk, plane);
    BITFOLD_UNROLL
    for (int i = 0; i < BITS; i++) _mm512_store_si512(out + i * kLine, plane[i]);
  }
}

// What the popcount of weight plane i and activation plane j is multiplied by: activations of one
// bit are counted in steps.
inline int32_t weight_of(const MatMul* op, int i, int j) {
  return op->act_bits == 1 ? -(1 << i) : factor_of(op, i, j);
}

// vpsubd in place.  Given the intrinsic, GCC adds counts up apart and runs out of registers.
inline __attribute__((always_inline)) void take_off(__m512i& sum, __m512i count) {
  asm("vpsubd %1, %0, %0" : "+v"(sum) : "v"(count));
}

// Add the products of one chunk; a points at its planes [ACTS][R].
template <class Count, int BITS, int ACTS, int R, int NT>
inline __attribute__((always_inline)) void add_chunk(__m512i (&acc)[NT][R], const uint8_t* chunk,
                                                     int64_t stride, const uint32_t* a,
                                                     const __m512i (&factor)[BITS][ACTS]) {
  __m512i plane[NT][BITS];
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++) {
    if constexpr (kMadeAhead<BITS>) {
      BITFOLD_UNROLL
      for (int i = 0; i < BITS; i++)
        plane[t][i] = _mm512_load_si512(chunk + t * stride + i * kLine);
    } else {
      load_planes<BITS>(chunk + t * stride, plane[t]);
    }
  }
  BITFOLD_UNROLL
  for (int j = 0; j < ACTS; j++) {
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) {
      const __m512i act = _mm512_set1_epi32((int)a[j * R + r]);
      BITFOLD_UNROLL
      for (int t = 0; t < NT; t++) {
        BITFOLD_UNROLL
        for (int i = 0; i < BITS; i++) {
          const __m512i both = ACTS == 1 ? _mm512_xor_si512(plane[t][i], act)
                                         : _mm512_and_si512(plane[t][i], act);
          if constexpr (Count::kWords && ACTS == 1) {
            if (i == 0) {
              take_off(acc[t][r], Count::of_words(both));
              continue;
            }
          }
          add_products(acc[t][r], Count::of_bytes(both), factor[i][j]);
        }
      }
    }
  }
}

template <int BITS, int ACTS>
inline void factors_of(const MatMul* op, __m512i (&factor)[BITS][ACTS]) {
  BITFOLD_UNROLL
  for (int i = 0; i < BITS; i++)
    BITFOLD_UNROLL
    for (int j = 0; j < ACTS; j++) factor[i][j] = _mm512_set1_epi8((char)weight_of(op, i, j));
}

// Chunks of a whole group.
inline int32_t group_chunks(const PackedWeight* w) {
  return w->groups == 1 ? w->chunks : w->group_size / kChunk;
}

// Sums [16] of one row and one tile, whose packed codes, or the planes made of them, are at
// `bytes`.  One chain of dependent sums would be slow: it is split over four.
template <class Count, int BITS, int ACTS>
void dot_planes(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
                float* sums) {
  constexpr int kAhead = 8 << 10;  // bytes that are fetched into L2 ahead of their use
  constexpr int kParts = 4;
  const PackedWeight* w = op->weight;
  const int32_t each = group_chunks(w);
  const uint32_t* a = (const uint32_t*)b->q;
  __m512i factor[BITS][ACTS];
  factors_of(op, factor);
  const bool row_scales = has_row_scales(op);
  __m512 total = _mm512_setzero_ps();
  for (int32_t g = 0, chunk = 0; g < w->groups; g++) {
    __m512i acc[kParts][1][1];
    acc[0][0][0] = _mm512_set1_epi32(b->start[g]);
    BITFOLD_UNROLL
    for (int part = 1; part < kParts; part++) acc[part][0][0] = _mm512_setzero_si512();
    const int32_t end = chunk + each < w->chunks ? chunk + each : w->chunks;
    for (; chunk + kParts <= end; chunk += kParts) {
      BITFOLD_UNROLL
      for (int part = 0; part < kParts; part++, bytes += BITS * kLine, a += ACTS) {
        if (!kMadeAhead<BITS>) {
          BITFOLD_UNROLL
          for (int line = 0; line < BITS; line++)
            _mm_prefetch((const char*)(bytes + line * kLine + kAhead), _MM_HINT_T1);
        }
        add_chunk<Count, BITS, ACTS, 1, 1>(acc[part], bytes, 0, a, factor);
      }
    }
    for (; chunk < end; chunk++, bytes += BITS * kLine, a += ACTS)
      add_chunk<Count, BITS, ACTS, 1, 1>(acc[0], bytes, 0, a, factor);
    BITFOLD_UNROLL
    for (int part = 1; part < kParts; part++)
      acc[0][0][0] = _mm512_add_epi32(acc[0][0][0], acc[part][0][0]);
    const int64_t at = (int64_t)tile * w->groups + g;
    __m512 part = _mm512_cvtepi32_ps(acc[0][0][0]);
    if (w->zero_points)
      part = _mm512_fnmadd_ps(zeros_at(w->zero_points, at), _mm512_set1_ps(b->sum[g]), part);
    total = add_group(total, part, scales_at(w, at), b->scale[g], row_scales);
  }
  _mm512_storeu_ps(sums, scaled(total, b->scale[0], row_scales));
}

}  // namespace
}  // namespace bitfold
