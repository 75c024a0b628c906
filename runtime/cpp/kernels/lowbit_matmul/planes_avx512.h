// Bit-plane products on AVX-512, whatever counts the bits of each byte: 512 products of bits in
// three instructions, and, popcount, and vpdpbusd, which weighs the counts and adds them up.
//
// Internal linkage throughout: only translation units built for AVX-512 include this.
#pragma once

#include "matmul_avx512.h"
#include "planes_x86.h"

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

// Swap the bits of `low` with those `by` places above.
template <int BY>
inline __m512i swap_bits(__m512i x, char low) {
  const __m512i differ = _mm512_and_si512(_mm512_xor_si512(x, _mm512_srli_epi32(x, BY)),
                                          _mm512_set1_epi8(low));
  return _mm512_xor_si512(x, _mm512_xor_si512(differ, _mm512_slli_epi32(differ, BY)));
}

// acc += sums of four products of bytes.  GCC copies the accumulators of the intrinsic around in
// loops, which takes as many instructions again as there are products.
inline void add_products(__m512i& acc, __m512i bytes, __m512i factors) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(bytes), "v"(factors));
}

// The planes of a chunk of packed codes; see channel_of_bit.
template <int BITS>
inline void load_planes(const uint8_t* chunk, __m512i* plane) {
  __m512i line[BITS];
  BITFOLD_UNROLL
  for (int i = 0; i < BITS; i++) line[i] = _mm512_loadu_si512(chunk + i * kLine);
  if constexpr (BITS == 1) {
    plane[0] = line[0];
  } else if constexpr (BITS < 4) {
    halves<1>(line[0], line[1], &plane[0], &plane[1]);
    // The third plane's nibbles are channels 0-15 and 16-31: bit by bit in turn.
    if constexpr (BITS == 3) plane[2] = swap_bits<1>(swap_bits<2>(line[2], 0x0C), 0x22);
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

// One row and one tile would be one chain of dependent sums: it is split over four.
template <int R, int NT>
constexpr int kParts = R * NT == 1 ? 4 : 1;

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
          add_products(acc[t][r], Count::of_bytes(both), factor[i][j]);
        }
      }
    }
  }
}

// Sums [NT][R][16] of NT tiles, the first of which is `tile`; `bytes` are its packed codes, or the
// planes made of them.
template <class Count, int BITS, int ACTS, int R, int NT>
void dot_planes(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
                float* sums) {
  constexpr int kAhead = 8 << 10;  // bytes that one row fetches into L2 ahead of their use
  constexpr int kSplit = kParts<R, NT>;
  const PackedWeight* w = op->weight;
  const int64_t stride = tile_bytes(w);
  const int32_t each = w->groups == 1 ? w->chunks : w->group_size / kChunk;
  const uint32_t* a = (const uint32_t*)b->q;
  __m512i factor[BITS][ACTS];
  BITFOLD_UNROLL
  for (int i = 0; i < BITS; i++)
    BITFOLD_UNROLL
    for (int j = 0; j < ACTS; j++) factor[i][j] = _mm512_set1_epi8((char)factor_of(op, i, j));
  __m512 total[NT][R];
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++)
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) total[t][r] = _mm512_setzero_ps();

  for (int32_t g = 0, chunk = 0; g < w->groups; g++) {
    __m512i acc[kSplit][NT][R];
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) {
      const __m512i from = _mm512_set1_epi32(b->start[g * R + r]);
      BITFOLD_UNROLL
      for (int t = 0; t < NT; t++) acc[0][t][r] = from;
    }
    BITFOLD_UNROLL
    for (int part = 1; part < kSplit; part++) acc[part][0][0] = _mm512_setzero_si512();
    const int32_t end = chunk + each < w->chunks ? chunk + each : w->chunks;
    if constexpr (kSplit > 1) {
      for (; chunk + kSplit <= end; chunk += kSplit) {
        BITFOLD_UNROLL
        for (int part = 0; part < kSplit; part++, bytes += BITS * kLine, a += ACTS) {
          if (!kMadeAhead<BITS>) {
            BITFOLD_UNROLL
            for (int line = 0; line < BITS; line++)
              _mm_prefetch((const char*)(bytes + line * kLine + kAhead), _MM_HINT_T1);
          }
          add_chunk<Count, BITS, ACTS, R, NT>(acc[part], bytes, stride, a, factor);
        }
      }
    }
    for (; chunk < end; chunk++, bytes += BITS * kLine, a += ACTS * R)
      add_chunk<Count, BITS, ACTS, R, NT>(acc[0], bytes, stride, a, factor);
    BITFOLD_UNROLL
    for (int part = 1; part < kSplit; part++)
      acc[0][0][0] = _mm512_add_epi32(acc[0][0][0], acc[part][0][0]);
    BITFOLD_UNROLL
    for (int t = 0; t < NT; t++) {
      const int64_t at = (int64_t)(tile + t) * w->groups + g;
      const __m512 scale = scales_at(w, at);
      const __m512 zero = w->zero_points ? zeros_at(w->zero_points, at) : _mm512_setzero_ps();
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        __m512 part = _mm512_cvtepi32_ps(acc[0][t][r]);
        if (w->zero_points) part = _mm512_fnmadd_ps(zero, _mm512_set1_ps(b->sum[g * R + r]), part);
        total[t][r] = _mm512_fmadd_ps(_mm512_mul_ps(part, scale),
                                      _mm512_set1_ps(b->scale[g * R + r]), total[t][r]);
      }
    }
  }
  BITFOLD_UNROLL
  for (int t = 0; t < NT; t++)
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) _mm512_storeu_ps(sums + (t * R + r) * kTile, total[t][r]);
}

typedef void (*PlaneDot)(const MatMul* op, const Block* b, int32_t tile, const uint8_t* bytes,
                         float* sums);

// What multiplies weights of one width by activations of another, for 1 to kBlockRows rows.
struct PlaneDots {
  const PlaneDot* one;  // tile
  const PlaneDot* two;  // tiles at a time, or null: their registers would not suffice
  void (*make_planes)(const PackedWeight* w, int32_t tile, uint8_t* out);  // or null
};

template <class Count, int BITS, int ACTS, int NT>
struct OfRows {
  static constexpr PlaneDot kDots[kBlockRows] = {
      dot_planes<Count, BITS, ACTS, 1, NT>, dot_planes<Count, BITS, ACTS, 2, NT>,
      dot_planes<Count, BITS, ACTS, 3, NT>, dot_planes<Count, BITS, ACTS, 4, NT>,
      dot_planes<Count, BITS, ACTS, 5, NT>, dot_planes<Count, BITS, ACTS, 6, NT>};
};

template <class Count, int BITS, int ACTS>
constexpr PlaneDots dots_of() {
  PlaneDots dots = {OfRows<Count, BITS, ACTS, 1>::kDots, nullptr, nullptr};
  if constexpr (BITS * ACTS == 1) dots.two = OfRows<Count, BITS, ACTS, 2>::kDots;
  if constexpr (kMadeAhead<BITS>) dots.make_planes = make_planes<BITS>;
  return dots;
}

// For every pair of widths whose product is at most MOST.
template <class Count, int MOST>
PlaneDots plane_dots(int32_t bits, int32_t acts) {
  if constexpr (MOST >= 4) {
    if (bits == 2 && acts == 2) return dots_of<Count, 2, 2>();
    if (bits == 4) return dots_of<Count, 4, 1>();
    if (acts == 4) return dots_of<Count, 1, 4>();
  }
  if constexpr (MOST >= 3) {
    if (bits == 3) return dots_of<Count, 3, 1>();
    if (acts == 3) return dots_of<Count, 1, 3>();
  }
  if constexpr (MOST >= 2) {
    if (bits == 2) return dots_of<Count, 2, 1>();
    if (acts == 2) return dots_of<Count, 1, 2>();
  }
  return dots_of<Count, 1, 1>();
}

inline void quantize_planes(const MatMul* op, int32_t index) {
  if (op->act_bits == 1) return binarize_block(op, index);
  quantize_avx512(op, index);
  Block b = block_at(op, index);
  planes_of_bytes(op, &b);
}

// Tiles go two at a time, as in matmul_avx512.h, and all blocks of rows go over both.
template <class Count, int MOST>
void multiply_planes(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                     int32_t block1, uint8_t* scratch) {
  const PackedWeight* w = op->weight;
  const PlaneDots dots = plane_dots<Count, MOST>(w->bits, op->act_bits);
  const int32_t by = is_paired(op) ? 2 : 1;
  alignas(64) float sums[2 * kBlockRows * kTile];
  for (int32_t tile = tile0; tile < tile1; tile += 2) {
    const int32_t tiles = tile1 - tile < 2 ? 1 : 2;
    const uint8_t* bytes = w->packed + tile * tile_bytes(w);
    if (dots.make_planes) {
      for (int32_t t = 0; t < tiles; t++)
        dots.make_planes(w, tile + t, scratch + t * tile_bytes(w));
      bytes = scratch;
    }
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      const int32_t each = b.rows * kTile;
      if (tiles == 2 && dots.two && b.rows > 1) {
        dots.two[b.rows - 1](op, &b, tile, bytes, sums);
      } else {
        for (int32_t t = 0; t < tiles; t++)
          dots.one[b.rows - 1](op, &b, tile + t, bytes + t * tile_bytes(w), sums + t * each);
      }
      for (int32_t t = 0; t < tiles; t += by)
        write(op, &b, tile + t, sums + t * each, sums + (t + by - 1) * each);
    }
  }
}

inline int32_t planes_offset(const MatMul* op) { return op->weight->offset; }

inline int64_t planes_scratch(const MatMul* op) { return 2 * tile_bytes(op->weight); }

template <class Count, int MOST>
constexpr PlaneKernels plane_kernels(const char* isa) {
  return {{isa, kBlockRows, planes_offset, quantize_planes, nullptr, planes_scratch,
           multiply_planes<Count, MOST>},
          MOST};
}

}  // namespace
}  // namespace bitfold
