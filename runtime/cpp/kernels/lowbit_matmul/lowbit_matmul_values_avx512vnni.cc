// Float levels on AVX-512: tables of up to 256 floats are looked up 32 entries at a time.

#include "matmul_avx512.h"
#include "matmul_values.h"

namespace bitfold {
namespace {

// Look up 16 indices in a table of 16 * 2**DOUBLINGS floats, 16 at least.
template <int DOUBLINGS>
inline __m512 look_up_values(__m512i index, const float* table) {
  if (DOUBLINGS == 0) return _mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
  __m512 found = _mm512_permutex2var_ps(_mm512_loadu_ps(table), index, _mm512_loadu_ps(table + 16));
  const __m512i part = _mm512_srli_epi32(index, 5);
  BITFOLD_UNROLL
  for (int high = 1; high < 1 << DOUBLINGS >> 1; high++) {
    const float* at = table + 32 * high;
    const __m512 other =
        _mm512_permutex2var_ps(_mm512_loadu_ps(at), index, _mm512_loadu_ps(at + 16));
    found = _mm512_mask_mov_ps(found, _mm512_cmpeq_epi32_mask(part, _mm512_set1_epi32(high)), other);
  }
  return found;
}

template <int DOUBLINGS>
void look_up_tile(const PackedWeight* w, const uint8_t* codes, float* levels) {
  const __m512i byte = _mm512_set1_epi32(255);
  for (int64_t k = 0; k < padded_k(w); k += 4, codes += kLine, levels += 4 * kTile) {
    const __m512i line = _mm512_loadu_si512(codes);
    BITFOLD_UNROLL
    for (int j = 0; j < 4; j++) {
      const __m512i index = _mm512_and_si512(_mm512_srli_epi32(line, 8 * j), byte);
      _mm512_storeu_ps(levels + j * kTile, look_up_values<DOUBLINGS>(index, w->values));
    }
  }
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
  static void write(const MatMul* op, const Block* b, int32_t tile, const float* sums,
                    const float* up_sums) {
    bitfold::write(op, b, tile, sums, up_sums);
  }
  static void levels(const PackedWeight* w, int32_t tile, uint8_t* codes, float* levels) {
    const Shift none = {nullptr, 0};
    const uint8_t* from = codes;
    if (is_decoded(w)) {
      from = w->packed + tile * tile_bytes(w);
    } else {
      decoder(w)(w, tile, 0, w->chunks, &none, codes);
    }
    switch (w->bits) {
      case 8:
        return look_up_tile<4>(w, from, levels);
      case 7:
        return look_up_tile<3>(w, from, levels);
      case 6:
        return look_up_tile<2>(w, from, levels);
      case 5:
        return look_up_tile<1>(w, from, levels);
      default:
        return look_up_tile<0>(w, from, levels);
    }
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
