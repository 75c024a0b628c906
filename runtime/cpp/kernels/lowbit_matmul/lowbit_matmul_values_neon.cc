// Float levels on NEON: read from the table one by one, which L1 holds.

#include "matmul_values.h"
#include "neon.h"

namespace bitfold {
namespace {

struct V {
  typedef float32x4_t Vector;
  static constexpr int kLanes = 4;
  static Vector zero() { return vdupq_n_f32(0); }
  static Vector set(float value) { return vdupq_n_f32(value); }
  static Vector load(const float* from) { return vld1q_f32(from); }
  static Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
  static Vector mul(Vector a, Vector b) { return vmulq_f32(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
  static Vector fnma(Vector a, Vector b, Vector c) { return vfmsq_f32(c, a, b); }
  static void store(float* to, Vector v) { vst1q_f32(to, v); }
  static Vector scales(const PackedWeight* w, int64_t at) { return scales_at(w, at); }
  static Vector zeros(const PackedWeight* w, int64_t at) { return zeros_at(w, at); }
  static void write(const MatMul* op, const Block* b, int32_t tile, float* sums,
                    float* up_sums) {
    bitfold::write(op, b, tile, sums, up_sums);
  }
  static void levels(const MatMul* op, int32_t tile, uint8_t* codes, float* levels) {
    const PackedWeight* w = op->weight;
    uint8_t* lines = codes + padded_k(w) * kTile;
    const uint8_t* line = dense_chunks(w, tile, lines);
    if (w->bits < 8) {  // decoding would make signed bytes of 8 bits
      decoder(w)(w, line, codes);
      line = lines = codes;
    }
    if (w->masks)
      spread_operands(op->masked, w, tile, 0, w->chunks, zero_bytes(w, 0), lines);
    for (int64_t k = 0; k < padded_k(w); k += 4, line += kLine, levels += 4 * kTile)
      for (int lane = 0; lane < kTile; lane++)
        for (int j = 0; j < 4; j++) levels[j * kTile + lane] = w->values[line[4 * lane + j]];
  }
};

}  // namespace

void multiply_values_neon(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                          int32_t block1, uint8_t* scratch) {
  multiply_values<V, 4>(op, tile0, tile1, block0, block1, scratch,
                        {dot_values<V, 1>, dot_values<V, 2>, dot_values<V, 3>, dot_values<V, 4>});
}

}  // namespace bitfold
