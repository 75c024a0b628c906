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

// How far up the codes of a chunk's steps lie, for each width: where they lie in their lines (those
// of one bit at 4 to 7: see `half_at`), two that are put together of two lines at 5.  More raises
// save shifts, but take more sums that small groups bring back every eight steps.
constexpr int kRaises[9][kSteps] = {
    {},
    {4, 5, 6, 7, 4, 5, 6, 7},
    {0, 2, 4, 6, 0, 2, 4, 6},
    {0, 3, 0, 3, 0, 3, 5, 5},
    {0, 4, 0, 4, 0, 4, 0, 4},
    {0, 1, 0, 1, 0, 1, 0, 1},
    {0, 2, 0, 2, 0, 2, 0, 2},
    {0, 1, 0, 1, 0, 1, 0, 1},
    {},
};
// The same of indices for tables of 64 entries.
constexpr int kTableRaises[9][kSteps] = {
    {},
    {4, 5, 4, 5, 4, 5, 4, 5},
    {0, 2, 4, 4, 0, 2, 4, 4},
    {0, 3, 0, 3, 0, 3, 3, 3},
    {},
    {0, 1, 0, 1, 0, 1, 0, 1},
};

constexpr int kNoRaises[kSteps] = {};

// The first step that has the same raise.
constexpr int first_of(const int (&raises)[kSteps], int step) {
  int first = 0;
  while (raises[first] != raises[step]) first++;
  return first;
}

// How many raises there are in the steps before one.
constexpr int raises_before(const int (&raises)[kSteps], int step) {
  int count = 0;
  for (int i = 0; i < step; i++) count += first_of(raises, i) == i;
  return count;
}

// The lines of half a chunk: of the plane of 8 or 4 bits, and of that of the others.
template <int BITS>
struct Half {
  __m512i wide[BITS & 8 ? 4 : 2], rest[3];
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
  constexpr int kWide = BITS & 12, kRest = BITS & 3;
  BITFOLD_UNROLL
  for (int i = 0; i < kWide / 2; i++)
    half.wide[i] = pinned(chunk + (HALF * kWide / 2 + i) * kLine);
  const uint8_t* rest = chunk + kWide * kLine;
  if constexpr (kRest == 1) half.rest[0] = pinned(rest);
  if constexpr (kRest == 1 && HALF == 0) half.rest[0] = _mm512_slli_epi16(half.rest[0], 4);
  if constexpr (kRest == 2) half.rest[0] = pinned(rest + HALF * kLine);
  BITFOLD_UNROLL
  for (int i = 0; kRest == 3 && i < 2 + HALF; i++) half.rest[i] = pinned(rest + i * kLine);
  return half;
}

// Where piece I of a step's code lies in the lines of a half.
constexpr Piece piece_in_half(int bits, int step, int i) {
  Piece piece = piece_of(bits, step, i);
  const int wide = bits & 12, rest = bits & 3;
  piece.line = i == 0 ? step % 4 * wide / 8 : rest == 3 ? piece.line - wide : 0;
  if (i == 1 && rest == 1) piece.at = 4 + step % 4;
  return piece;
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

// The same, beside others that are there: LOOSE, with whatever lies beside both.
template <int W, int FROM, int TO, bool LOOSE>
BITFOLD_INLINE __m512i moved_beside(__m512i line, __m512i others) {
  const __m512i mask = _mm512_set1_epi8((char)(((1 << W) - 1) << TO));
  // others | (line & mask), or others with the line's bits in place of their own where the mask is
  const __m512i moved = shifted<FROM, TO>(line);
  return _mm512_ternarylogic_epi32(others, moved, mask, LOOSE ? 0xD8 : 0xF8);
}

// The codes of a half's step RAISE bits up, LOOSE with any bits around them: pieces I and before,
// put to the others.
template <int BITS, int STEP, int RAISE, bool LOOSE, int I = kPieces - 1>
BITFOLD_INLINE __m512i raised_codes(const Half<BITS>& half, __m512i others = __m512i()) {
  constexpr Piece kPiece = piece_in_half(BITS, STEP, I);
  constexpr int kWidth = kPiece.width, kFrom = kPiece.at, kTo = kPiece.low + RAISE;
  constexpr bool kFirst = I == kPieces - 1 || (I == 1 && !piece_of(BITS, STEP, 2).width) ||
                          (I == 0 && !(BITS & 3));
  if constexpr (kWidth) {
    const __m512i line = I == 0 ? half.wide[kPiece.line] : half.rest[kPiece.line];
    if constexpr (kWidth == 8)
      others = line;
    else if constexpr (!kFirst)
      others = moved_beside<kWidth, kFrom, kTo, LOOSE>(line, others);
    else if constexpr (LOOSE)
      others = shifted<kFrom, kTo>(line);
    else
      others = moved<kWidth, kFrom, kTo>(line);
  }
  if constexpr (I > 0) return raised_codes<BITS, STEP, RAISE, LOOSE, I - 1>(half, others);
  return others;
}

// The operand bytes of a chunk's steps, each so many bits up; `table` is that of a weight.
template <int BITS, bool TABLE>
class RaisedOperands {
 public:
  BITFOLD_INLINE explicit RaisedOperands(const uint8_t*) {}

  static constexpr const int (&raises())[kSteps] { return kRaises[BITS]; }

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

  static constexpr const int (&raises())[kSteps] { return kNoRaises; }

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

  static constexpr const int (&raises())[kSteps] { return kNoRaises; }

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
