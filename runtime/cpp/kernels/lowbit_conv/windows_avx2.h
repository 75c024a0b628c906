// Quantized pixels times low-bit tiles in 256-bit registers, from a panel of operand bytes: up to
// kRows windows and kHalves halves of a tile (8 outputs each) at a time.
//
// Internal linkage throughout: lowbit_conv_avx2.cc and lowbit_conv_avxvnni.cc include this.
#pragma once

#include <string.h>

#include "../lowbit_matmul/dot_avx2.h"
#include "conv_avx2.h"

namespace bitfold {
namespace {

constexpr int kWindows = 32;  // windows whose sums are transposed together
constexpr int kRows = 4;      // windows in registers
#if defined(__AVXVNNI__)
constexpr int kHalves = 2;
#else
constexpr int kHalves = 1;
#endif

// Sums of R windows, 16 floats apart, for the halves from `half` on; `index` is the first
// window's.
template <int RANGE, int R>
void dot(const Windows* t, const uint8_t* panel, int32_t tile, int half, const int32_t* index,
         float* sums) {
  const PackedWeight* w = t->weight;
  const Pixels* p = t->pixels;
  const int64_t taps = conv_taps(t->conv), part_bytes = p->stride / p->parts;
  const int64_t depth = conv_depth(t->conv);  // what is behind is padding
  const int64_t real = round_up(part_bytes < depth ? part_bytes : depth, 4);
  const int64_t unread = (part_bytes - real) / 4 * kLine;
  const uint8_t* line = panel + 32 * half;
  int64_t at = 2 * (int64_t)tile * w->groups + half;
  sums += 8 * half;
  for (int r = 0; r < R; r++)
    for (int h = 0; h < kHalves; h++)
      _mm256_storeu_ps(sums + r * kTile + 8 * h, _mm256_setzero_ps());
  for (int64_t tap = 0; tap < taps; tap++, index += t->count) {
    int64_t meta[R];
    const int8_t* q[R];
    for (int r = 0; r < R; r++) meta[r] = index[r], q[r] = p->q + index[r] * p->stride;
    for (int32_t part = 0; part < p->parts; part++, at += 2) {
      __m256i acc[R][kHalves];
      for (int r = 0; r < R; r++)  // signed levels need no offset removed
        for (int h = 0; h < kHalves; h++)
          acc[r][h] = _mm256_set1_epi32(RANGE == kSigned ? 0 : p->start[meta[r]]);
      int64_t i = part * part_bytes;
      const int64_t end = i + real;
      const auto activations = [&](int s, int r) {
        int32_t four;
        memcpy(&four, q[r] + i + 4 * s, sizeof four);
        return four;
      };
      for (; i + 16 <= end; i += 16, line += 4 * kLine) add_products<RANGE, 4>(acc, line, activations);
      for (; i < end; i += 4, line += kLine) add_products<RANGE, 1>(acc, line, activations);
      line += unread;
      for (int h = 0; h < kHalves; h++) {
        const __m256 scale = scales_at(w, at + h);
        const __m256 zero = w->zero_points ? zeros_at(w, at + h) : _mm256_setzero_ps();
        for (int r = 0; r < R; r++) {
          float* sum = sums + r * kTile + 8 * h;
          const __m256 found = _mm256_fnmadd_ps(zero, _mm256_broadcast_ss(p->sum + meta[r]),
                                                _mm256_cvtepi32_ps(acc[r][h]));
          _mm256_storeu_ps(sum, _mm256_fmadd_ps(_mm256_mul_ps(found, scale),
                                                _mm256_broadcast_ss(p->scale + meta[r]),
                                                _mm256_loadu_ps(sum)));
        }
      }
      for (int r = 0; r < R; r++) meta[r] += p->count + 1;
    }
  }
}

typedef void (*Dot)(const Windows* t, const uint8_t* panel, int32_t tile, int half,
                    const int32_t* index, float* sums);

template <int RANGE>
struct Int8 {
  static constexpr Dot kDots[kRows] = {dot<RANGE, 1>, dot<RANGE, 2>, dot<RANGE, 3>, dot<RANGE, 4>};
};

inline const Dot* int8_dots(const PackedWeight* w) {
#if defined(__AVXVNNI__)
  (void)w;
  return Int8<kAny>::kDots;
#else
  static const Dot* const all[] = {Int8<kNarrow>::kDots, Int8<kWide>::kDots, Int8<kSigned>::kDots};
  return all[range_of(w)];
#endif
}

// Transpose 8 x 8 floats.
inline void transpose(__m256 (&v)[8]) {
  __m256 a[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    v[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    v[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
    v[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    v[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
  for (int j = 0; j < 4; j++) {
    a[j] = _mm256_permute2f128_ps(v[j], v[4 + j], 0x20);
    a[4 + j] = _mm256_permute2f128_ps(v[j], v[4 + j], 0x31);
  }
  for (int i = 0; i < 8; i++) v[i] = a[i];
}

// What the convolution does to clamped sums.
inline __m256 tailed(const Conv* c, __m256 v) {
  if (c->hardswish) {
    const __m256 sixth = _mm256_set1_ps(1.0f / 6), half = _mm256_set1_ps(0.5f);
    const __m256 gate = _mm256_max_ps(_mm256_setzero_ps(), _mm256_fmadd_ps(v, sixth, half));
    v = _mm256_mul_ps(v, _mm256_min_ps(_mm256_set1_ps(1), gate));
  }
  return _mm256_fmadd_ps(v, _mm256_set1_ps(c->scale), _mm256_set1_ps(c->shift));
}

// `at` counts from the first window on.
void store_count(const Windows* t, const float* sums, int64_t stride, int64_t first, int64_t at,
                 int64_t count) {
  const int64_t plane = conv_windows(t->conv);
  const __m256 least = _mm256_set1_ps(t->conv->least), most = _mm256_set1_ps(t->conv->most);
  const bool tail = conv_has_tail(t->conv);
  for (int half = 0; half < 2; half++, first += 8, sums += 8) {
    const int64_t left = t->weight->n - first, channels = left < 8 ? left : 8;
    if (left <= 0) return;
    const __m256i lanes = lanes_of(0, channels);
    const __m256 bias = t->bias ? _mm256_maskload_ps(t->bias + first, lanes) : _mm256_setzero_ps();
    for (int64_t i = 0; i < count; i += 8) {
      const int64_t windows = count - i < 8 ? count - i : 8;
      const __m256i there = lanes_of(0, windows);
      __m256 v[8];
      for (int r = 0; r < 8; r++) {
        v[r] = r < windows ? _mm256_maskload_ps(sums + (i + r) * stride, lanes)
                           : _mm256_setzero_ps();
        // In this order of operands NaN stays.
        v[r] = _mm256_min_ps(most, _mm256_max_ps(least, _mm256_add_ps(v[r], bias)));
      }
      transpose(v);
      for (int lane = 0; lane < 8 && lane < channels; lane++) {
        const int64_t place = (first + lane) * plane + at + i;
        if (tail) v[lane] = tailed(t->conv, v[lane]);
        if (t->residual)
          v[lane] = _mm256_add_ps(v[lane], _mm256_maskload_ps(t->residual + place, there));
        _mm256_maskstore_ps(t->y + place, there, v[lane]);
      }
    }
  }
}

void store(const Windows* t, const float* sums, int64_t stride, int64_t first) {
  store_count(t, sums, stride, first, 0, t->count);
}

void multiply(const Windows* t, uint8_t* scratch) {
  alignas(32) float sums[kWindows * kTile];
  const PackedWeight* w = t->weight;
  const Dot* dots = int8_dots(w);
  for (int32_t tile = t->tile0; tile < t->tile1; tile++) {
    const uint8_t* panel = scratch;
    if (w->bits == 8 && !w->has_table) {
      panel = w->packed + tile * tile_bytes(w);
    } else {
      decoder(w)(w, dense_tile(w, tile), scratch);
    }
    for (int64_t i = 0; i < t->count; i += kWindows) {
      const int64_t count = t->count - i < kWindows ? t->count - i : kWindows;
      for (int64_t r = 0; r < count; r += kRows) {
        const int64_t rows = count - r < kRows ? count - r : kRows;
        for (int half = 0; half < 2; half += kHalves)
          dots[rows - 1](t, panel, tile, half, t->index + i + r, sums + r * kTile);
      }
      store_count(t, sums, kTile, (int64_t)tile * kTile, i, count);
    }
  }
}

int32_t offset(const PackedWeight* w) { return w->offset; }
int64_t scratch(const PackedWeight* w) { return padded_k(w) * kTile; }

}  // namespace
}  // namespace bitfold
