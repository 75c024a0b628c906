// Quantized pixels times low-bit tiles on NEON: a tile and four windows at a time, from a panel
// of signed bytes; products as in lowbit_matmul_neon.cc, but that a register holds 16 channels
// of one window.

#include <string.h>

#include "conv_neon.h"

namespace bitfold {
namespace {

constexpr int kRows = 4;      // windows in registers
constexpr int kWindows = 32;  // windows whose sums are transposed together

// Add steps S and on of 16 input channels, of which R windows' activations are given.
template <int R, int S>
BITFOLD_INLINE void add_steps(int32x4_t (&acc)[4][R], const int8_t* line, const int8x16_t (&a)[R]) {
  for (int quarter = 0; quarter < 4; quarter++) {
    const int8x16_t u = vld1q_s8(line + S * kLine + 16 * quarter);
    for (int r = 0; r < R; r++) acc[quarter][r] = vdotq_laneq_s32(acc[quarter][r], u, a[r], S);
  }
  if constexpr (S < 3) add_steps<R, S + 1>(acc, line, a);
}

// Add four input channels.
template <int R>
BITFOLD_INLINE void add_step(int32x4_t (&acc)[4][R], const int8_t* line, const int8_t* const* q,
                             int64_t at) {
  int8x16_t a[R];
  for (int r = 0; r < R; r++) {
    int32_t four;
    memcpy(&four, q[r] + at, sizeof four);
    a[r] = vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  for (int quarter = 0; quarter < 4; quarter++) {
    const int8x16_t u = vld1q_s8(line + 16 * quarter);
    for (int r = 0; r < R; r++) acc[quarter][r] = vdotq_s32(acc[quarter][r], u, a[r]);
  }
}

// Sums of R windows, 16 floats apart; `index` is the first window's.
template <int R>
void dot(const Windows* t, const uint8_t* panel, int32_t tile, const int32_t* index, float* sums) {
  const PackedWeight* w = t->weight;
  const Pixels* p = t->pixels;
  const int64_t taps = conv_taps(t->conv), part_bytes = p->stride / p->parts;
  const int64_t depth = conv_depth(t->conv);  // what is behind is padding
  const int64_t real = round_up(part_bytes < depth ? part_bytes : depth, 4);
  const int64_t unread = (part_bytes - real) / 4 * kLine;
  const int8_t* line = (const int8_t*)panel;
  int64_t at = 4 * (int64_t)tile * w->groups;
  for (int i = 0; i < R * kTile; i += 4) vst1q_f32(sums + i, vdupq_n_f32(0));
  for (int64_t tap = 0; tap < taps; tap++, index += t->count) {
    int64_t meta[R];
    const int8_t* q[R];
    for (int r = 0; r < R; r++) meta[r] = index[r], q[r] = p->q + index[r] * p->stride;
    for (int32_t part = 0; part < p->parts; part++) {
      int32x4_t acc[4][R];
      for (int r = 0; r < R; r++)
        for (int quarter = 0; quarter < 4; quarter++)
          acc[quarter][r] = vdupq_n_s32(p->start[meta[r]]);
      int64_t i = part * part_bytes;
      const int64_t end = i + real;
      for (; i + 16 <= end; i += 16, line += 4 * kLine) {
        int8x16_t a[R];
        for (int r = 0; r < R; r++) a[r] = vld1q_s8(q[r] + i);
        add_steps<R, 0>(acc, line, a);
      }
      for (; i < end; i += 4, line += kLine) add_step<R>(acc, line, q, i);
      line += unread;
      for (int quarter = 0; quarter < 4; quarter++, at++) {
        const float32x4_t scale = scales_at(w, at);
        const float32x4_t zero = w->zero_points ? zeros_at(w, at) : vdupq_n_f32(0);
        for (int r = 0; r < R; r++) {
          const float32x4_t found =
              vfmsq_n_f32(vcvtq_f32_s32(acc[quarter][r]), zero, p->sum[meta[r]]);
          float* sum = sums + r * kTile + 4 * quarter;
          vst1q_f32(sum, vfmaq_n_f32(vld1q_f32(sum), vmulq_f32(found, scale), p->scale[meta[r]]));
        }
      }
      for (int r = 0; r < R; r++) meta[r] += p->count + 1;
    }
  }
}

typedef void (*Dot)(const Windows* t, const uint8_t* panel, int32_t tile, const int32_t* index,
                    float* sums);

const Dot kDots[kRows] = {dot<1>, dot<2>, dot<3>, dot<4>};

// What the convolution does to clamped sums.
BITFOLD_INLINE float32x4_t tailed(const Conv* c, float32x4_t v) {
  if (c->hardswish) {
    const float32x4_t one = vdupq_n_f32(1);
    const float32x4_t gate = vfmaq_n_f32(vdupq_n_f32(0.5f), v, 1.0f / 6);
    v = vmulq_f32(v, vminq_f32(one, vmaxq_f32(vdupq_n_f32(0), gate)));
  }
  return vfmaq_n_f32(vdupq_n_f32(c->shift), v, c->scale);
}

// `at` counts from the first window on.
void store_count(const Windows* t, const float* sums, int64_t stride, int64_t first, int64_t at,
                 int64_t count) {
  const int64_t plane = conv_windows(t->conv);
  const float32x4_t least = vdupq_n_f32(t->conv->least), most = vdupq_n_f32(t->conv->most);
  const bool tail = conv_has_tail(t->conv);
  for (int quarter = 0; quarter < 4; quarter++, first += 4, sums += 4) {
    const int64_t channels = t->weight->n - first;
    if (channels <= 0) return;
    const float32x4_t bias = t->bias ? load_part(t->bias + first, channels) : vdupq_n_f32(0);
    for (int64_t i = 0; i < count; i += 4) {
      float32x4_t v[4];
      for (int r = 0; r < 4; r++) {  // NaN stays
        v[r] = i + r < count ? load_part(sums + (i + r) * stride, channels) : vdupq_n_f32(0);
        v[r] = vminq_f32(most, vmaxq_f32(least, vaddq_f32(v[r], bias)));
      }
      transpose(v);
      for (int lane = 0; lane < 4 && lane < channels; lane++) {
        const int64_t place = (first + lane) * plane + at + i;
        if (tail) v[lane] = tailed(t->conv, v[lane]);
        if (t->residual) v[lane] = vaddq_f32(v[lane], load_part(t->residual + place, count - i));
        store_part(t->y + place, v[lane], count - i);
      }
    }
  }
}

void store(const Windows* t, const float* sums, int64_t stride, int64_t first) {
  store_count(t, sums, stride, first, 0, t->count);
}

void multiply(const Windows* t, uint8_t* scratch) {
  alignas(16) float sums[kWindows * kTile];
  const Decode decode_tile = decoder(t->weight);
  for (int32_t tile = t->tile0; tile < t->tile1; tile++) {
    decode_tile(t->weight, dense_tile(t->weight, tile), scratch);
    for (int64_t i = 0; i < t->count; i += kWindows) {
      const int64_t count = t->count - i < kWindows ? t->count - i : kWindows;
      for (int64_t r = 0; r < count; r += kRows) {
        const int64_t rows = count - r < kRows ? count - r : kRows;
        kDots[rows - 1](t, scratch, tile, t->index + i + r, sums + r * kTile);
      }
      store_count(t, sums, kTile, (int64_t)tile * kTile, i, count);
    }
  }
}

int64_t scratch(const PackedWeight* w) { return padded_k(w) * kTile; }

}  // namespace

const ConvKernels kConvNeon = {"neon",   signed_offset, quantize_pixels_neon, scratch,
                               multiply, store,         depthwise_neon,       depthwise_scratch_neon};

}  // namespace bitfold
