// Float levels on AVX-512: tables of up to 256 floats are looked up in registers.

#include "matmul_avx512.h"
#include "matmul_values.h"

namespace bitfold {
namespace {

// Look up 16 indices in a table of 2**DOUBLINGS vectors; bit[d] has the lanes whose index has bit
// 3 + d.
template <int DOUBLINGS>
inline __attribute__((always_inline)) __m512 look_up_values(__m512i index, const __mmask16* bit,
                                                            const __m512* table) {
  if constexpr (DOUBLINGS == 0) {
    return _mm512_permutexvar_ps(index, table[0]);
  } else if constexpr (DOUBLINGS == 1) {
    return _mm512_permutex2var_ps(table[0], index, table[1]);
  } else {
    const __m512 low = look_up_values<DOUBLINGS - 1>(index, bit, table);
    const __m512 high =
        look_up_values<DOUBLINGS - 1>(index, bit, table + (1 << (DOUBLINGS - 1)));
    return _mm512_mask_mov_ps(low, bit[DOUBLINGS], high);
  }
}

// Look a tile up in a table of 16 * 2**DOUBLINGS floats.  MIRRORED: codes have a sign bit above
// the index, as small floats do.
template <int DOUBLINGS, bool MIRRORED>
void look_up_tile(const PackedWeight* w, const uint8_t* codes, float* levels) {
  __m512 table[1 << DOUBLINGS];  // copied: levels could be a part of it, for all C++ knows
  BITFOLD_UNROLL
  for (int i = 0; i < 1 << DOUBLINGS; i++) table[i] = _mm512_loadu_ps(w->values + 16 * i);
  const __m512i byte = _mm512_set1_epi32(255), top = _mm512_set1_epi32(INT32_MIN);
  for (int64_t k = 0; k < padded_k(w); k += 4, codes += kLine, levels += 4 * kTile) {
    const __m512i line = _mm512_loadu_si512(codes);
    BITFOLD_UNROLL
    for (int j = 0; j < 4; j++) {
      const __m512i index = _mm512_and_si512(_mm512_srli_epi32(line, 8 * j), byte);
      __mmask16 bit[5] = {};
      BITFOLD_UNROLL
      for (int d = 2; d <= DOUBLINGS; d++)
        bit[d] = _mm512_movepi32_mask(_mm512_slli_epi32(index, 28 - d));
      __m512 value = look_up_values<DOUBLINGS>(index, bit, table);
      if (MIRRORED) {
        const __m512i sign = _mm512_and_si512(_mm512_slli_epi32(index, 27 - DOUBLINGS), top);
        value = _mm512_xor_ps(value, _mm512_castsi512_ps(sign));
      }
      _mm512_storeu_ps(levels + j * kTile, value);
    }
  }
}

// Whether the upper half of a table of 32 floats or more is the lower one's negative.
inline bool is_mirrored(const PackedWeight* w) {
  const int half = 1 << w->bits >> 1;
  __mmask16 same = half < 16 ? 0 : 0xFFFF;
  for (int i = 0; i < half; i += 16) {
    const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(w->values + i),
                                     _mm512_loadu_ps(w->values + (half < 16 ? 0 : half) + i));
    same &= _mm512_cmp_ps_mask(sum, _mm512_setzero_ps(), _CMP_EQ_OQ);
  }
  return same == 0xFFFF;
}

typedef void (*LookUp)(const PackedWeight* w, const uint8_t* codes, float* levels);

inline LookUp look_up_of(const PackedWeight* w) {
  static const LookUp plain[] = {look_up_tile<1, false>, look_up_tile<2, false>,
                                 look_up_tile<3, false>, look_up_tile<4, false>};
  static const LookUp mirrored[] = {look_up_tile<0, true>, look_up_tile<1, true>,
                                    look_up_tile<2, true>, look_up_tile<3, true>};
  if (w->bits <= 4) return look_up_tile<0, false>;
  return (is_mirrored(w) ? mirrored : plain)[w->bits - 5];
}

struct V {
  typedef __m512 Vector;
  static constexpr int kLanes = 16;
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector set(float value) { return _mm512_set1_ps(value); }
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector fnma(Vector a, Vector b, Vector c) { return _mm512_fnmadd_ps(a, b, c); }
  static void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
  static Vector scales(const PackedWeight* w, int64_t at) { return scales_at(w, at); }
  static Vector zeros(const PackedWeight* w, int64_t at) { return zeros_at(w->zero_points, at); }
  static void write(const MatMul* op, const Block* b, int32_t tile, float* sums,
                    float* up_sums) {
    bitfold::write(op, b, tile, sums, up_sums);
  }
  static void levels(const MatMul* op, int32_t tile, uint8_t* codes, float* levels) {
    const PackedWeight* w = op->weight;
    const Shift none = {nullptr, 0};
    const uint8_t* from = codes;
    if (is_decoded(w)) {
      from = tile_at(w, tile);
    } else {
      decode_chunks(op, decoder(w), tile, 0, w->chunks, tile_at(w, tile), &none,
                    codes + padded_k(w) * kTile, codes);
    }
    look_up_of(w)(w, from, levels);
  }
};

}  // namespace

void multiply_values_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                            int32_t block1, uint8_t* scratch) {
  multiply_values<V, kBlockRows>(op, tile0, tile1, block0, block1, scratch,
                                 {dot_values<V, 1>, dot_values<V, 2>, dot_values<V, 3>,
                                  dot_values<V, 4>, dot_values<V, 5>, dot_values<V, 6>});
}

}  // namespace bitfold
