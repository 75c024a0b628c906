// The choice between products of planes and of bytes; one-bit activations for the latter.

#include "planes.h"

#include <math.h>
#include <string.h>

namespace bitfold {

MatMulKernels kernels_for(const MatMulKernels* bytes, const PlaneKernels* planes,
                          const MatMul* op) {
  const PackedWeight* w = op->weight;
  const bool few = op->int8 && op->act_bits <= 4 && w->bits <= 4 &&
                   w->bits * op->act_bits <= planes->most_products;
  const bool whole_chunks = w->groups == 1 || w->group_size % kChunk == 0;
  // Differing bits would be counted in the padding of the last chunk, too.
  const bool padded = op->act_bits == 1 && w->k % kChunk != 0;
  if (few && whole_chunks && !padded && !w->masks) {
    const int32_t step = step_of(w);
    const int32_t largest = (step < 0 ? -step : step) << (w->bits + op->act_bits - 2);
    // Kernels may count in steps.
    const bool whole_steps = step != 0 && (op->act_bits > 1 || 2 * base_of(w) % step == 0);
    if (whole_steps && largest <= 127) return planes->matmul;
  }
  MatMulKernels chosen = *bytes;
  if (op->int8 && op->act_bits == 1) chosen.quantize = binarize;
  return chosen;
}

void binarize(const MatMul* op, int32_t index, const float* rows_x) {
  const PackedWeight* w = op->weight;
  Block b = block_at(op, index);
  int8_t* q = (int8_t*)b.q;
  memset(q, 0, padded_k(w) * b.rows);
  const bool whole = op->act_group_size >= w->k;
  for (int32_t r = 0; r < b.rows; r++) {
    const float* x = rows_x + r * w->k;
    float row_mean = 0;
    bool broken = false;
    for (int64_t k = 0; k < w->k; k++) broken |= !isfinite(x[k]);
    if (whole) row_mean = mean_magnitude(x, w->k);
    for (int32_t g = 0; g < w->groups; g++) {
      const int64_t k0 = (int64_t)g * w->group_size, count = group_count(w, g);
      const float mean = whole ? row_mean : mean_magnitude(x + k0, count);
      int32_t sum = 0;
      for (int64_t k = k0; k < k0 + count; k++) {
        const int32_t sign = broken ? 0 : x[k] < 0 ? -1 : 1;
        q[(k / 4 * b.rows + r) * 4 + k % 4] = (int8_t)sign;
        sum += sign;
      }
      b.scale[g * b.rows + r] = broken ? NAN : mean < 1e-30f ? 0 : mean;
      b.start[g * b.rows + r] = -op->offset * sum;
      b.sum[g * b.rows + r] = (float)sum;
    }
  }
}

float mean_magnitude(const float* x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += fabsf(x[i]);
  return (float)(sum / (double)count);
}

}  // namespace bitfold
