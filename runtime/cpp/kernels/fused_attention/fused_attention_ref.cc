// The reference: one row at a time, all scores at once, sums in double precision.

#include <cmath>
#include <cstring>

#include "fused_attention.h"

namespace bitfold {
namespace {

void rotate(const float* x, const float* cos, const float* sin, int64_t head, bool interleaved,
            float* out) {
  for (int64_t i = 0; i < head / 2; i++) {
    const int64_t one = interleaved ? 2 * i : i, other = interleaved ? 2 * i + 1 : i + head / 2;
    const float a = x[one], b = x[other];
    out[one] = a * cos[i] - b * sin[i];
    out[other] = a * sin[i] + b * cos[i];
  }
}

int64_t packed_floats(const Attention*) { return 0; }

void pack(const Attention*, int64_t, int64_t, int64_t, int64_t, float*) {}

// The scores of one row.
int64_t scratch_floats(const Attention* a) {
  int64_t most = 1;
  for (int64_t b = 0; b < a->batch; b++) most = keys_of(a, b) > most ? keys_of(a, b) : most;
  return most;
}

void attend_row(const Attention* a, const QueryBlock* block, int64_t row, float* scores) {
  const int64_t i = row / group_of(a), h = block->kv * group_of(a) + row % group_of(a);
  const int64_t seen = seen_by(a, block->b, i);
  const HeadRows keys = keys_at(a, block->b, block->kv), values = values_at(a, block->b, block->kv);
  const float* mask = mask_at(a, block->b, i, h);
  const float* x = query_at(a, block->b, i, h);
  float query[kMaxHead];
  const int64_t angles = (start_of(a, block->b) + i) * (a->head / 2);
  if (a->cos) {
    rotate(x, a->cos + angles, a->sin + angles, a->head, a->interleaved, query);
  } else {
    std::memcpy(query, x, a->head * sizeof(float));
  }
  float most = -INFINITY;
  for (int64_t j = 0; j < seen; j++) {
    double dot = 0;
    for (int64_t d = 0; d < a->head; d++)
      dot += static_cast<double>(query[d]) * keys.first[j * keys.stride + d];
    float score = static_cast<float>(dot * a->scale);
    if (a->softcap != 0) score = a->softcap * std::tanh(score / a->softcap);
    if (mask) score += mask[j * a->mask_key];
    scores[j] = score;
    if (!(score <= most)) most = score;  // a NaN stays
  }
  if (most == -INFINITY) most = 0;
  double sum = 0, mixed[kMaxHead] = {};
  for (int64_t j = 0; j < seen; j++) {
    const double weight = std::exp(static_cast<double>(scores[j]) - most);
    sum += weight;
    for (int64_t d = 0; d < a->head; d++) mixed[d] += weight * values.first[j * values.stride + d];
  }
  float* y = output_at(a, block->b, i, h);
  for (int64_t d = 0; d < a->head; d++) y[d] = sum == 0 ? 0 : static_cast<float>(mixed[d] / sum);
}

void attend(const Attention* a, const QueryBlock* blocks, int64_t count, const float*,
            float* scratch) {
  for (const QueryBlock* block = blocks; block < blocks + count; block++)
    for (int64_t r = 0; r < block->rows; r++) attend_row(a, block, block->first + r, scratch);
}

}  // namespace

const AttentionKernels kAttentionRef = {"ref", 8,    0,              rotate,
                                        packed_floats, pack, scratch_floats, attend, nullptr};

}  // namespace bitfold
