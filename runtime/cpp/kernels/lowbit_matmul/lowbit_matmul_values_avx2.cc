// Float levels on AVX2: gathered from the table, which L1 holds.

#include "avx2.h"
#include "matmul_values.h"

namespace bitfold {
namespace {

struct V {
  typedef __m256 Vector;
  static constexpr int kLanes = 8;
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector set(float value) { return _mm256_set1_ps(value); }
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector fnma(Vector a, Vector b, Vector c) { return _mm256_fnmadd_ps(a, b, c); }
  static void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
  static Vector scales(const PackedWeight* w, int64_t at) { return scales_at(w, at); }
  static Vector zeros(const PackedWeight* w, int64_t at) { return zeros_at(w, at); }
  static void write(const MatMul* op, const Block* b, int32_t tile, float* sums,
                    float* up_sums) {
    bitfold::write(op, b, tile, sums, up_sums);
  }
  static void levels(const MatMul* op, int32_t tile, uint8_t* codes, float* levels) {
    const PackedWeight* w = op->weight;
    const uint8_t* line = decoded(op, tile, codes + padded_k(w) * kTile, codes);
    const __m256i byte = _mm256_set1_epi32(255);
    for (int64_t k = 0; k < padded_k(w); k += 4, line += kLine, levels += 4 * kTile)
      for (int half = 0; half < 2; half++) {
        __m256i rest = _mm256_loadu_si256((const __m256i*)line + half);
        for (int j = 0; j < 4; j++) {
          const __m256i index = _mm256_and_si256(rest, byte);
          _mm256_storeu_ps(levels + j * kTile + 8 * half,
                           _mm256_i32gather_ps(w->values, index, 4));
          rest = _mm256_srli_epi32(rest, 8);
        }
      }
  }
};

}  // namespace

void multiply_values_avx2(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                          int32_t block1, uint8_t* scratch) {
  // AVX-VNNI, which shares this, has blocks of six rows.
  multiply_values<V, 6>(op, tile0, tile1, block0, block1, scratch,
                        {dot_values<V, 1>, dot_values<V, 2>, dot_values<V, 3>, dot_values<V, 4>,
                         dot_values<V, 5>, dot_values<V, 6>});
}

}  // namespace bitfold
