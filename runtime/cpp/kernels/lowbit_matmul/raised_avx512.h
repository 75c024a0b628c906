// Half a chunk of codes where they are cheapest to take: anywhere in their bytes.
//
// A product of codes that lie RAISE bits up is 2**RAISE too large, which sums of their own make
// good at a group's end.  Shifts and masks, which cost as much as products, are thus saved.  So it
// is with tables: one for each place that an index may lie at.
//
// Internal linkage throughout: only translation units built for AVX-512 include this.
#pragma once

#include "operands_avx512.h"

namespace bitfold {
namespace {

// How far up the codes of a half's four steps lie, for each width.  Lines of two bits have them at
// 0, 2, 4 and 6, of four bits at 0 and 4, and those of one bit at 4 to 7: see `half_at`.  More
// raises save shifts, but take more sums that small groups bring back every eight steps.
constexpr int kRaises[9][4] = {{},           {4, 5, 6, 7}, {0, 2, 4, 6}, {0, 2, 0, 2}, {0, 4, 0, 4},
                               {0, 1, 0, 1}, {0, 2, 0, 2}, {0, 1, 0, 1}, {0, 0, 0, 0}};
// The same of indices for tables of 64 entries.
constexpr int kTableRaises[9][4] = {{},           {4, 5, 4, 5}, {0, 2, 4, 4},
                                    {2, 3, 2, 3}, {0, 0, 0, 0}, {0, 1, 0, 1}};

constexpr int kNoRaises[4] = {};

// The first step that has the same raise.
constexpr int first_of(const int (&raises)[4], int step) {
  int first = 0;
  while (raises[first] != raises[step]) first++;
  return first;
}

// How many raises there are in the steps before one.
constexpr int raises_before(const int (&raises)[4], int step) {
  int count = 0;
  for (int i = 0; i < step; i++) count += first_of(raises, i) == i;
  return count;
}

// The lines of half a chunk.
template <int BITS>
struct Half {
  __m512i line[BITS & 8 ? 4 : 2];  // of eight bits, or of four
  __m512i two, one;
};

// Loads a line once: GCC would load it again for every step.
BITFOLD_INLINE __m512i pinned(const uint8_t* at) {
  __m512i line = _mm512_loadu_si512(at);
  asm("" : "+v"(line));
  return line;
}

template <int BITS, int HALF>
BITFOLD_INLINE Half<BITS> half_at(const uint8_t* chunk) {
  Half<BITS> half;
  constexpr int kLines = BITS & 8 ? 4 : BITS & 4 ? 2 : 0;
  BITFOLD_UNROLL
  for (int i = 0; i < kLines; i++) half.line[i] = pinned(chunk + (HALF * kLines + i) * kLine);
  if constexpr (BITS & 2) half.two = pinned(chunk + ((BITS & 4) + HALF) * kLine);
  if constexpr (BITS & 1) half.one = pinned(chunk + (BITS & 6) * kLine);
  if constexpr (BITS & 1 && HALF == 0) half.one = _mm512_slli_epi16(half.one, 4);
  return half;
}

// W bits alone, moved from position FROM of every byte to TO.
template <int W, int FROM, int TO>
BITFOLD_INLINE __m512i moved(__m512i line) {
#if defined(BITFOLD_VBMI)
  // Its matrix: the last byte says what makes bit 0.
  constexpr auto matrix = [] {
    uint64_t bits = 0;
    for (int i = 0; i < W; i++) bits |= (uint64_t)1 << (FROM + i) << 8 * (7 - TO - i);
    return (long long)bits;
  };
  if constexpr (FROM != TO)
    return _mm512_gf2p8affine_epi64_epi8(line, _mm512_set1_epi64(matrix()), 0);
#endif
  return _mm512_and_si512(shifted<FROM, TO>(line),
                          _mm512_set1_epi8((char)(((1 << W) - 1) << TO)));
}

// The same, beside what is `above`: LOOSE, with whatever lies beside both.
template <int W, int FROM, int TO, bool LOOSE>
BITFOLD_INLINE __m512i moved_below(__m512i line, __m512i above) {
  const __m512i mask = _mm512_set1_epi8((char)(((1 << W) - 1) << TO));
  // above | (line & mask), or above with the line's bits in place of its own where the mask is
  const __m512i moved = shifted<FROM, TO>(line);
  return _mm512_ternarylogic_epi32(above, moved, mask, LOOSE ? 0xD8 : 0xF8);
}

// The codes of a half's step RAISE bits up, LOOSE with any bits around them.
template <int BITS, int STEP, int RAISE, bool LOOSE>
BITFOLD_INLINE __m512i raised_codes(const Half<BITS>& half) {
  constexpr int kTwo = (BITS & 4) + RAISE, kOne = (BITS & 6) + RAISE;
  if constexpr (BITS & 8) return half.line[STEP];
  __m512i c = _mm512_setzero_si512();
  if constexpr (BITS & 1)
    c = LOOSE ? shifted<4 + STEP, kOne>(half.one) : moved<1, 4 + STEP, kOne>(half.one);
  if constexpr (BITS & 2) {
    if constexpr (BITS & 1)
      c = moved_below<2, 2 * STEP, kTwo, LOOSE>(half.two, c);
    else
      c = LOOSE ? shifted<2 * STEP, kTwo>(half.two) : moved<2, 2 * STEP, kTwo>(half.two);
  }
  if constexpr (BITS & 4) {
    constexpr int kFrom = STEP % 2 * 4;
    if constexpr (BITS & 3)
      c = moved_below<4, kFrom, RAISE, LOOSE>(half.line[STEP / 2], c);
    else
      c = LOOSE ? shifted<kFrom, RAISE>(half.line[STEP / 2])
                : moved<4, kFrom, RAISE>(half.line[STEP / 2]);
  }
  return c;
}

// The operand bytes of half a chunk's steps, each so many bits up; `table` is that of a weight.
template <int BITS, bool TABLE>
class RaisedOperands {
 public:
  BITFOLD_INLINE explicit RaisedOperands(const uint8_t*) {}

  static constexpr const int (&raises())[4] { return kRaises[BITS]; }

  template <int STEP>
  BITFOLD_INLINE __m512i at(const Half<BITS>& half) const {
    return raised_codes<BITS, STEP, kRaises[BITS][STEP], false>(half);
  }
};

#if defined(BITFOLD_VBMI)
template <int BITS>
class RaisedOperands<BITS, true> {
 public:
  BITFOLD_INLINE explicit RaisedOperands(const uint8_t* table)
      : tables_{Table<BITS>(table, kTableRaises[BITS][0]),
                Table<BITS>(table, kTableRaises[BITS][1]),
                Table<BITS>(table, kTableRaises[BITS][2])} {}

  static constexpr const int (&raises())[4] { return kNoRaises; }

  template <int STEP>
  BITFOLD_INLINE __m512i at(const Half<BITS>& half) const {
    constexpr int kRaise = kTableRaises[BITS][STEP], kTable = first_of(kTableRaises[BITS], STEP);
    return tables_[kTable].look_up(
        raised_codes<BITS, STEP, kRaise, true>(half));
  }

 private:
  Table<BITS> tables_[3];
};
#else
template <int BITS>
class RaisedOperands<BITS, true> {
 public:
  BITFOLD_INLINE explicit RaisedOperands(const uint8_t* table) : table_(table) {}

  static constexpr const int (&raises())[4] { return kNoRaises; }

  template <int STEP>
  BITFOLD_INLINE __m512i at(const Half<BITS>& half) const {
    return table_.look_up(raised_codes<BITS, STEP, 0, false>(half));
  }

 private:
  Table<BITS> table_;
};
#endif

}  // namespace
}  // namespace bitfold
