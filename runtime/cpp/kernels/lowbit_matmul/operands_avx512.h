// Operand bytes of the AVX-512 kernels: codes taken out of packed lines, and tables of them.
//
// A translation unit that is built for VBMI looks 64 codes up at once in tables of any length.
//
// Internal linkage throughout: only translation units built for AVX-512 include this.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "../packed_weight.h"

// Loops over rows and tiles are unrolled early, so that their arrays live in registers.
#define BITFOLD_UNROLL _Pragma("GCC unroll 16")
#define BITFOLD_INLINE inline __attribute__((always_inline))

#if defined(__AVX512VBMI__) && defined(__GFNI__)
#define BITFOLD_VBMI 1
#endif

namespace bitfold {
namespace {

// The lines of a chunk, in registers.
template <int BITS>
struct Lines {
  __m512i line[BITS];
};

// Those that are not used are not loaded.
template <int BITS>
BITFOLD_INLINE Lines<BITS> lines_at(const uint8_t* chunk) {
  Lines<BITS> lines;
  BITFOLD_UNROLL
  for (int i = 0; i < BITS; i++) lines.line[i] = _mm512_loadu_si512(chunk + i * kLine);
  return lines;
}

// A line's bits moved from position FROM to TO of every byte, beside others: by 16-bit shifts.
template <int FROM, int TO>
BITFOLD_INLINE __m512i shifted(__m512i line) {
  if constexpr (FROM > TO) return _mm512_srli_epi16(line, FROM - TO);
  if constexpr (FROM < TO) return _mm512_slli_epi16(line, TO - FROM);
  return line;
}

// Bits FROM and up of every byte of a line, WIDTH of them, moved to TO and up: to what is `beside`
// them, unless they are ALONE.
template <int WIDTH, int FROM, int TO, bool ALONE>
BITFOLD_INLINE __m512i field(__m512i line, __m512i beside) {
  const __m512i mask = _mm512_set1_epi8((char)(((1 << WIDTH) - 1) << TO));
  const __m512i moved = shifted<FROM, TO>(line);
  if (ALONE) return _mm512_and_si512(moved, mask);
  return _mm512_ternarylogic_epi32(moved, mask, beside, 0xEA);  // (moved & mask) | beside
}

// The 64 codes of step S of a chunk: 16 lanes of four consecutive input channels.
template <int BITS, int S, int I = 0>
BITFOLD_INLINE __m512i codes(const Lines<BITS>& lines, __m512i others = __m512i()) {
  constexpr Piece kPiece = piece_of(BITS, S, I);
  constexpr bool kFirst = I == 0 || (I == 1 && !(BITS & 12));
  if constexpr (kPiece.width == 8) return lines.line[S];
  if constexpr (kPiece.width)
    others = field<kPiece.width, kPiece.at, kPiece.low, kFirst>(lines.line[kPiece.line], others);
  if constexpr (I + 1 < kPieces) return codes<BITS, S, I + 1>(lines, others);
  return others;
}

#if defined(BITFOLD_VBMI)

// The longest table that is worth a look-up wherever its codes are decoded, in bits of a code.
constexpr int kWidestTable = 8;

// A table of 2**BITS bytes, for codes `raise` bits up: shorter ones are repeated, so that any bits
// may stand around a code's.
template <int BITS>
class Table {
 public:
  BITFOLD_INLINE explicit Table(const uint8_t* entries, int raise = 0) {
    if constexpr (BITS < 6) {
      uint8_t place[64];
      for (int i = 0; i < 64; i++) place[i] = (uint8_t)(i >> raise & ((1 << BITS) - 1));
      part_[0] =
          _mm512_permutexvar_epi8(_mm512_loadu_si512(place), _mm512_loadu_si512(entries));
    } else {
      BITFOLD_UNROLL
      for (int i = 0; i < kParts; i++) part_[i] = _mm512_loadu_si512(entries + 64 * i);
    }
  }

  BITFOLD_INLINE __m512i look_up(__m512i c) const {
    if constexpr (BITS <= 6) return _mm512_permutexvar_epi8(c, part_[0]);
    const __m512i low = _mm512_permutex2var_epi8(part_[0], c, part_[1]);
    if constexpr (BITS <= 7) return low;
    const __m512i high = _mm512_permutex2var_epi8(part_[kParts - 2], c, part_[kParts - 1]);
    return _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(c), high);
  }

  static constexpr int kParts = BITS > 6 ? 1 << (BITS - 6) : 1;
  __m512i part_[kParts];
};

#else

constexpr int kWidestTable = 4;

// A table of 2**BITS bytes, looked up 16 entries at a time.
template <int BITS>
class Table {
 public:
  BITFOLD_INLINE explicit Table(const uint8_t* entries) : entries_(entries), first_(part(0)) {}

  BITFOLD_INLINE __m512i look_up(__m512i c) const {
    if constexpr (BITS <= 4) return _mm512_shuffle_epi8(first_, c);
    __m512i found = _mm512_setzero_si512();
    for (int high = 0; high < 1 << (BITS > 4 ? BITS - 4 : 0); high++) {
      // A code of another part gets its top bit set here, for which the shuffle gives zero.
      __m512i within = _mm512_xor_si512(c, _mm512_set1_epi8((char)(high << 4)));
      within = _mm512_adds_epu8(within, _mm512_set1_epi8(0x70));
      found = _mm512_or_si512(found, _mm512_shuffle_epi8(part(high), within));
    }
    return found;
  }

 private:
  BITFOLD_INLINE __m512i part(int high) const {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)(entries_ + 16 * high)));
  }

  const uint8_t* entries_;
  __m512i first_;
};

#endif

// The unsigned operand bytes (level + offset) of a chunk's steps; `table` is that of a weight.
template <int BITS, bool TABLE>
class Operands {
 public:
  BITFOLD_INLINE explicit Operands(const uint8_t* table) : table_(table) {}

  template <int S>
  BITFOLD_INLINE __m512i at(const Lines<BITS>& lines) const {
    return table_.look_up(codes<BITS, S>(lines));
  }

 private:
  struct None {
    BITFOLD_INLINE explicit None(const uint8_t*) {}
    BITFOLD_INLINE __m512i look_up(__m512i c) const { return c; }
  };
  std::conditional_t<TABLE, Table<BITS>, None> table_;
};

}  // namespace
}  // namespace bitfold
