// Quantized pixels times low-bit tiles on AVX-512 VNNI: two tiles and six windows at a time.
//
// Tiles are decoded into a panel of operand bytes, zero points subtracted where they can be; a
// window's taps are read where the quantized pixels lie.

#include "conv_avx512.h"

namespace bitfold {
namespace {

constexpr int kRows = 6;       // windows in registers
constexpr int kWindows = 48;   // windows whose sums are transposed together
constexpr int kTiles = 2;

// Operand bytes of one or two tiles, each [k / 4][64], and zero points [T][G][16] that are yet to
// be subtracted, or null.
struct Tiles {
  const uint8_t* bytes;
  int64_t stride;
  const int8_t* zero_points;
};

inline bool takes_zeros(const PackedWeight* w) { return w->zero_points && !is_decoded(w); }

Tiles decoded(const Windows* t, int32_t tile, int32_t tiles, uint8_t* scratch) {
  const PackedWeight* w = t->weight;
  if (is_decoded(w)) return {w->packed + tile * tile_bytes(w), tile_bytes(w), w->zero_points};
  const int64_t stride = padded_k(w) * kTile, zeros = (int64_t)w->groups * kTile;
  bool folded = takes_zeros(w);
  for (int32_t i = 0; i < tiles && folded; i++)
    folded = tile_folds(w, w->zero_points + (tile + i) * zeros);
  for (int32_t i = 0; i < tiles; i++) {
    const Shift shift = {folded ? w->zero_points + (tile + i) * zeros : nullptr,
                         t->pixels->offset - w->offset};
    decoder(w)(w, dense_tile(w, tile + i), 0, w->chunks, &shift, scratch + i * stride);
  }
  return {scratch, stride, folded ? nullptr : w->zero_points};
}

// Add four input channels: `bytes` are their operands, `at` their place in the windows' pixels.
template <int R, int NT>
inline __attribute__((always_inline)) void step(__m512i (&acc)[NT][R], const uint8_t* bytes,
                                                int64_t stride, const int8_t* const (&q)[R],
                                                int64_t at) {
  __m512i u[NT];
  BITFOLD_UNROLL
  for (int n = 0; n < NT; n++) u[n] = _mm512_loadu_si512(bytes + n * stride);
  BITFOLD_UNROLL
  for (int r = 0; r < R; r++) {
    const __m512i a = _mm512_set1_epi32(*(const int32_t*)(q[r] + at));
    BITFOLD_UNROLL
    for (int n = 0; n < NT; n++) add_products(acc[n][r], u[n], a);
  }
}

// Sums of R windows, `kTiles` times 16 for each, from NT tiles; `index` is the first one's.  ZEROS:
// zero points are yet to be subtracted.  RUN: the windows are pixels, one after the other.
template <int R, int NT, bool ZEROS, bool RUN>
void dot(const Windows* t, const Tiles* tiles, int32_t tile, const int32_t* index, float* sums) {
  const PackedWeight* w = t->weight;
  const Pixels* p = t->pixels;
  const int64_t taps = RUN ? 1 : conv_taps(t->conv), part_bytes = p->stride / p->parts;
  const int64_t depth = conv_depth(t->conv);  // what is behind is padding
  const int64_t real = round_up(part_bytes < depth ? part_bytes : depth, 4);
  const int64_t unread = (part_bytes - real) / 4 * kLine, stride = tiles->stride;
  const uint8_t* bytes = tiles->bytes;
  int64_t at = (int64_t)tile * w->groups;
  __m512 total[NT][R];
  BITFOLD_UNROLL
  for (int n = 0; n < NT; n++)
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) total[n][r] = _mm512_setzero_ps();

  for (int64_t tap = 0; tap < taps; tap++, index += t->count) {
    const auto pixel = [&](int r) { return RUN ? index[0] + (int64_t)r : index[r]; };
    const int8_t* q[R];
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) q[r] = p->q + pixel(r) * p->stride;
    for (int32_t part = 0; part < p->parts; part++, at++) {
      const int64_t row = part * (p->count + 1);
      const int32_t* start = p->start + row;
      __m512i acc[NT][R];
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        const __m512i from = _mm512_set1_epi32(start[pixel(r)]);
        BITFOLD_UNROLL
        for (int n = 0; n < NT; n++) acc[n][r] = from;
      }
      int64_t i = part * part_bytes;
      const int64_t end = i + real;
      for (; i + 16 <= end; i += 16, bytes += 4 * kLine) {
        step<R, NT>(acc, bytes, stride, q, i);
        step<R, NT>(acc, bytes + kLine, stride, q, i + 4);
        step<R, NT>(acc, bytes + 2 * kLine, stride, q, i + 8);
        step<R, NT>(acc, bytes + 3 * kLine, stride, q, i + 12);
      }
      if (real & 8) {
        step<R, NT>(acc, bytes, stride, q, i);
        step<R, NT>(acc, bytes + kLine, stride, q, i + 4);
        i += 8, bytes += 2 * kLine;
      }
      if (real & 4) step<R, NT>(acc, bytes, stride, q, i), bytes += kLine;
      bytes += unread;
      const float *scale_of = p->scale + row, *sum_of = p->sum + row;
      BITFOLD_UNROLL
      for (int n = 0; n < NT; n++) {
        const __m512 scale = scales_at(w, at + n * w->groups);
        const __m512 zero =
            ZEROS ? zeros_at(tiles->zero_points, at + n * w->groups) : _mm512_setzero_ps();
        BITFOLD_UNROLL
        for (int r = 0; r < R; r++) {
          __m512 sum = _mm512_cvtepi32_ps(acc[n][r]);
          if (ZEROS) sum = _mm512_fnmadd_ps(zero, _mm512_set1_ps(sum_of[pixel(r)]), sum);
          total[n][r] = _mm512_fmadd_ps(_mm512_mul_ps(sum, scale),
                                        _mm512_set1_ps(scale_of[pixel(r)]), total[n][r]);
        }
      }
    }
  }
  BITFOLD_UNROLL
  for (int n = 0; n < NT; n++)
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++)
      _mm512_storeu_ps(sums + (r * kTiles + n) * kTile, total[n][r]);
}

typedef void (*Dot)(const Windows* t, const Tiles* tiles, int32_t tile, const int32_t* index,
                    float* sums);

template <int NT, bool ZEROS, bool RUN>
constexpr Dot kDots[kRows] = {dot<1, NT, ZEROS, RUN>, dot<2, NT, ZEROS, RUN>,
                              dot<3, NT, ZEROS, RUN>, dot<4, NT, ZEROS, RUN>,
                              dot<5, NT, ZEROS, RUN>, dot<6, NT, ZEROS, RUN>};

template <bool RUN>
const Dot* dots_of(const Tiles* panel, int32_t tiles) {
  if (panel->zero_points) return tiles == 2 ? kDots<2, true, RUN> : kDots<1, true, RUN>;
  return tiles == 2 ? kDots<2, false, RUN> : kDots<1, false, RUN>;
}

const Dot* dots(const Windows* t, const Tiles* panel, int32_t tiles) {
  return conv_is_pointwise(t->conv) ? dots_of<true>(panel, tiles) : dots_of<false>(panel, tiles);
}

// Transpose 16 x 16 floats.
inline void transpose(__m512 (&v)[16]) {
  __m512 a[16];
  BITFOLD_UNROLL
  for (int i = 0; i < 16; i += 2) {  // pairs within 128 bits
    a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
  BITFOLD_UNROLL
  for (int i = 0; i < 16; i += 4) {  // fours: v[i + j] has column j of each 128 bits
    v[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
    v[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xEE);
    v[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    v[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
  BITFOLD_UNROLL
  for (int j = 0; j < 4; j++) {
    const __m512 ab = _mm512_shuffle_f32x4(v[j], v[4 + j], 0x88);
    const __m512 cd = _mm512_shuffle_f32x4(v[8 + j], v[12 + j], 0x88);
    const __m512 ef = _mm512_shuffle_f32x4(v[j], v[4 + j], 0xDD);
    const __m512 gh = _mm512_shuffle_f32x4(v[8 + j], v[12 + j], 0xDD);
    a[j] = _mm512_shuffle_f32x4(ab, cd, 0x88);
    a[8 + j] = _mm512_shuffle_f32x4(ab, cd, 0xDD);
    a[4 + j] = _mm512_shuffle_f32x4(ef, gh, 0x88);
    a[12 + j] = _mm512_shuffle_f32x4(ef, gh, 0xDD);
  }
  BITFOLD_UNROLL
  for (int i = 0; i < 16; i++) v[i] = a[i];
}

// What the convolution does to clamped sums.
inline __m512 tailed(const Conv* c, __m512 v) {
  if (c->hardswish) {
    const __m512 sixth = _mm512_set1_ps(1.0f / 6), half = _mm512_set1_ps(0.5f);
    const __m512 gate = _mm512_max_ps(_mm512_setzero_ps(), _mm512_fmadd_ps(v, sixth, half));
    v = _mm512_mul_ps(v, _mm512_min_ps(_mm512_set1_ps(1), gate));
  }
  return _mm512_fmadd_ps(v, _mm512_set1_ps(c->scale), _mm512_set1_ps(c->shift));
}

// `at` counts from the first window on.
void store_count(const Windows* t, const float* sums, int64_t stride, int64_t first, int64_t at,
                 int64_t count) {
  const int64_t plane = conv_windows(t->conv);
  const __mmask16 lanes = lanes_of(first, t->weight->n);
  const __m512 bias = t->bias ? _mm512_maskz_loadu_ps(lanes, t->bias + first) : _mm512_setzero_ps();
  const __m512 least = _mm512_set1_ps(t->conv->least), most = _mm512_set1_ps(t->conv->most);
  const int channels = __builtin_popcount(lanes);
  const bool tail = conv_has_tail(t->conv);
  float* y = t->y + first * plane + at;
  const float* residual = t->residual ? t->residual + first * plane + at : nullptr;
  for (int64_t i = 0; i < count; i += 16, y += 16) {
    const __mmask16 windows = lanes_of(i, count);
    __m512 v[16];
    BITFOLD_UNROLL
    for (int r = 0; r < 16; r++) {
      const __mmask16 there = windows & 1u << r ? lanes : 0;
      v[r] = _mm512_add_ps(_mm512_maskz_loadu_ps(there, sums + (i + r) * stride), bias);
      // In this order of operands NaN stays.
      v[r] = _mm512_min_ps(most, _mm512_max_ps(least, v[r]));
    }
    transpose(v);
    if (tail) {
      BITFOLD_UNROLL
      for (int lane = 0; lane < 16; lane++) v[lane] = tailed(t->conv, v[lane]);
    }
    if (residual) {
      BITFOLD_UNROLL
      for (int lane = 0; lane < 16; lane++)
        if (lane < channels)
          v[lane] = _mm512_add_ps(v[lane],
                                  _mm512_maskz_loadu_ps(windows, residual + lane * plane));
      residual += 16;
    }
    BITFOLD_UNROLL
    for (int lane = 0; lane < 16; lane++)
      if (lane < channels) _mm512_mask_storeu_ps(y + lane * plane, windows, v[lane]);
  }
}

void store(const Windows* t, const float* sums, int64_t stride, int64_t first) {
  store_count(t, sums, stride, first, 0, t->count);
}

void multiply(const Windows* t, uint8_t* scratch) {
  alignas(64) float sums[kWindows * kTiles * kTile];
  for (int32_t tile = t->tile0; tile < t->tile1; tile += kTiles) {
    const int32_t tiles = t->tile1 - tile < kTiles ? 1 : kTiles;
    const Tiles panel = decoded(t, tile, tiles, scratch);
    const Dot* of_rows = dots(t, &panel, tiles);
    for (int64_t i = 0; i < t->count; i += kWindows) {
      const int64_t count = t->count - i < kWindows ? t->count - i : kWindows;
      for (int64_t r = 0; r < count; r += kRows) {
        const int64_t rows = count - r < kRows ? count - r : kRows;
        of_rows[rows - 1](t, &panel, tile, t->index + i + r, sums + r * kTiles * kTile);
      }
      for (int32_t n = 0; n < tiles; n++)
        store_count(t, sums + n * kTile, kTiles * kTile, (int64_t)(tile + n) * kTile, i,
                    count);
    }
  }
}

int32_t offset(const PackedWeight* w) { return takes_zeros(w) ? 128 : w->offset; }
int64_t scratch(const PackedWeight* w) { return kTiles * padded_k(w) * kTile; }

}  // namespace

const ConvKernels kConvAvx512Vnni = {
    "avx512vnni", offset, quantize_pixels_avx512, scratch, multiply, store, depthwise_avx512,
    depthwise_scratch_avx512};

}  // namespace bitfold
