// Prepare blocks of X on AVX-512: round rows to bytes, or to planes of bits, and interleave them, or
// only interleave.
//
// Plain multiplications and divisions in f32, in the specification's order: the codes are the
// same as those of a stock-ONNX function body.

#include "matmul_avx512.h"

#include "planes.h"

#include <math.h>
#include <string.h>

namespace bitfold {
namespace {

constexpr float kTiny = 1e-30f;
constexpr int32_t kInfinity = 0x7f800000;

inline __mmask16 lanes_left(int64_t count) {
  return (__mmask16)(count >= 16 ? 0xFFFF : (1u << count) - 1);
}

// Whether any of the magnitudes [count] is a NaN or infinity.
inline bool holds_infinite(const float* reach, int64_t count) {
  __mmask16 found = 0;
  for (int64_t i = 0; i < count; i += 16)
    found |= _mm512_mask_cmp_epi32_mask(lanes_left(count - i), _mm512_loadu_si512(reach + i),
                                        _mm512_set1_epi32(kInfinity), _MM_CMPINT_NLT);
  return found;
}

// Mark row r of a block as broken: it holds a NaN or an infinity.
void poison(const PackedWeight* w, Block* b, int32_t r) {
  for (int64_t i = 0; i < padded_k(w) / 4; i++) b->q[i * b->rows + r] = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    b->scale[g * b->rows + r] = NAN;
    b->start[g * b->rows + r] = 0;
    b->sum[g * b->rows + r] = 0;
  }
}

inline __m512i rounded(__m512 x, __m512 inverse) {
  // Only a given scale lets values go beyond int8.
  const __m512 top = _mm512_set1_ps(127), bottom = _mm512_set1_ps(-127);
  const __m512 scaled = _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(x, inverse), bottom), top);
  return _mm512_cvt_roundps_epi32(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Round up to 16 inputs and write them as four interleaved int32.  Returns their sum, each
// byte raised by 128, in two parts.
inline __m128i round_16(__m512 x, __m512 inverse, int32_t* q, int64_t rows) {
  const __m128i bytes = _mm512_cvtepi32_epi8(rounded(x, inverse));
  if (rows == 1) {
    _mm_storeu_si128((__m128i*)q, bytes);
  } else {
    q[0] = _mm_cvtsi128_si32(bytes);
    q[rows] = _mm_extract_epi32(bytes, 1);
    q[2 * rows] = _mm_extract_epi32(bytes, 2);
    q[3 * rows] = _mm_extract_epi32(bytes, 3);
  }
  return _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8((char)0x80)), _mm_setzero_si128());
}

// Turn the largest magnitudes [count] into scales, in place, and their inverses; or set them to
// the scale that is given, if it is not 0.  Whole vectors: both arrays are padded to 64 bytes.
inline void scales_of(float most, float* reach, float* inverses, int64_t count, float given) {
  const __m512 top = _mm512_set1_ps(most);
  for (int64_t i = 0; i < count && given > 0; i += 16) {
    _mm512_storeu_ps(reach + i, _mm512_set1_ps(given));
    _mm512_storeu_ps(inverses + i, _mm512_set1_ps(1 / given));
  }
  if (given > 0) return;
  for (int64_t i = 0; i < count; i += 16) {
    const __m512 amax = _mm512_loadu_ps(reach + i);
    const __mmask16 alive = _mm512_cmp_ps_mask(amax, _mm512_set1_ps(kTiny), _CMP_GE_OQ);
    _mm512_storeu_ps(inverses + i, _mm512_maskz_div_ps(alive, top, amax));
    _mm512_storeu_ps(reach + i, _mm512_maskz_div_ps(alive, amax, top));
  }
}

// Write codes of 16 inputs at a time, for groups of any multiple of 16.
inline void codes_16(const MatMul* op, const Block* b, const float* rows_x) {
  const PackedWeight* w = op->weight;
  const int64_t rows = b->rows, k = w->k, size = w->group_size, padded = padded_k(w);
  for (int32_t r = 0; r < rows; r++) {
    const float* x = rows_x + r * k;
    int32_t* q = b->q + r;
    int64_t k0 = 0;
    for (int32_t g = 0; g < w->groups; g++, k0 += size) {
      const int64_t count = size < k - k0 ? size : k - k0;
      const __m512 inverse = _mm512_set1_ps(b->sum[g * rows + r]);
      __m128i sums = _mm_setzero_si128();
      const float *from = x + k0, *end = from + count;
      for (; from + 16 <= end; from += 16, q += 4 * rows)
        sums = _mm_add_epi32(sums, round_16(_mm512_loadu_ps(from), inverse, q, rows));
      if (from < end) {
        const __m512 rest = _mm512_maskz_loadu_ps(lanes_left(end - from), from);
        sums = _mm_add_epi32(sums, round_16(rest, inverse, q, rows));
        q += 4 * rows;
      }
      const int32_t sum = _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) -
                          128 * (int32_t)round_up(count, 16);
      b->start[g * rows + r] = -op->offset * sum;
      b->sum[g * rows + r] = (float)sum;
    }
    // The channels that fill the last chunk: round_16 wrote up to a multiple of 16.
    for (int64_t i = round_up(k, 16) / 4; i < padded / 4; i++, q += rows) *q = 0;
  }
}

// How R rows of 16 int32 become [16][R]: vector j takes lane `from[j][p]` of the row whose mask has
// bit p.  A row has its int32 in the order that packing leaves: 4 (i % 4) + i / 4.
template <int R>
struct Interleaving {
  alignas(64) int32_t from[R][16];
  __mmask16 of[R][R];
  constexpr Interleaving() : from(), of() {
    for (int at = 0; at < 16 * R; at++) {
      const int i = at / R;
      from[at / 16][at % 16] = i % 4 * 4 + i / 4;
      of[at / 16][at % R] = (__mmask16)(of[at / 16][at % R] | 1 << at % 16);
    }
  }
};

template <int R>
constexpr Interleaving<R> kInterleaving{};

// Codes of up to 64 inputs as int32 of four, in packing's order.  `high` scales the second half.
template <bool CLAMP>
inline __m512i round_64(const float* x, int64_t count, __m512 low, __m512 high) {
  __m512i value[4];
  BITFOLD_UNROLL
  for (int i = 0; i < 4; i++) {
    const float* at = x + 16 * i;
    const __m512 from =
        count >= 64 ? _mm512_loadu_ps(at)
                    : _mm512_maskz_loadu_ps(count > 16 * i ? lanes_left(count - 16 * i) : 0, at);
    __m512 scaled = _mm512_mul_ps(from, i < 2 ? low : high);
    if (CLAMP) {
      scaled = _mm512_max_ps(scaled, _mm512_set1_ps(-127));
      scaled = _mm512_min_ps(scaled, _mm512_set1_ps(127));
    }
    value[i] = _mm512_cvt_roundps_epi32(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  return _mm512_packs_epi16(_mm512_packs_epi32(value[0], value[1]),
                            _mm512_packs_epi32(value[2], value[3]));
}

inline void set_sum(const MatMul* op, const Block* b, int64_t at, int32_t sum) {
  b->start[at] = -op->offset * sum;
  b->sum[at] = (float)sum;
}

// Write codes of 64 inputs of R rows at a time.  Groups are multiples of 64, or, with HALVES, 32.
template <int R, bool HALVES, bool CLAMP>
void codes_64(const MatMul* op, const Block* b, const float* x) {
  const PackedWeight* w = op->weight;
  const int64_t k = w->k, padded = padded_k(w);
  const int32_t by = HALVES ? 2 : 1;
  const int64_t span = HALVES ? 64 : w->group_size;
  const __m512i ones = _mm512_set1_epi8(1);
  int64_t k0 = 0;
  for (int32_t g = 0; g < w->groups; g += by) {
    const int64_t end = k0 + span < k ? k0 + span : k;
    const int32_t second = HALVES && g + 1 < w->groups ? R : 0;
    const float* inverses = b->sum + (int64_t)g * R;
    __m512 low[R], high[R];
    __m512i sums[R];
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) {
      low[r] = _mm512_set1_ps(inverses[r]);
      high[r] = HALVES ? _mm512_set1_ps(inverses[second + r]) : low[r];
      sums[r] = _mm512_setzero_si512();
    }
    for (; k0 < end; k0 += 64) {
      __m512i codes[R];
      BITFOLD_UNROLL
      for (int r = 0; r < R; r++) {
        codes[r] = round_64<CLAMP>(x + r * k + k0, end - k0, low[r], high[r]);
        sums[r] = _mm512_dpbusd_epi32(sums[r], ones, codes[r]);
      }
      int32_t* q = b->q + k0 / 4 * R;
      const int64_t room = (padded - k0) / 4 * R;
      BITFOLD_UNROLL
      for (int j = 0; j < R; j++) {
        const __m512i from = _mm512_load_si512(kInterleaving<R>.from[j]);
        __m512i mixed = _mm512_permutexvar_epi32(from, codes[0]);
        BITFOLD_UNROLL
        for (int r = 1; r < R; r++)
          mixed = _mm512_mask_permutexvar_epi32(mixed, kInterleaving<R>.of[j][r], from, codes[r]);
        if (room >= 16 * R) {
          _mm512_storeu_si512(q + 16 * j, mixed);
        } else if (room > 16 * j) {
          _mm512_mask_storeu_epi32(q + 16 * j, lanes_left(room - 16 * j), mixed);
        }
      }
    }
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) {
      const int64_t at = (int64_t)g * R + r;
      if (!HALVES) {
        set_sum(op, b, at, _mm512_reduce_add_epi32(sums[r]));
        continue;
      }
      // In packing's order the first half is in lanes 0 and 1 of every four.
      set_sum(op, b, at, _mm512_mask_reduce_add_epi32(0x3333, sums[r]));
      if (second) set_sum(op, b, at + R, _mm512_mask_reduce_add_epi32(0xcccc, sums[r]));
    }
  }
}

typedef void (*Codes)(const MatMul* op, const Block* b, const float* x);

template <bool HALVES, bool CLAMP>
inline Codes codes_of(int32_t rows) {
  static const Codes kCodes[kBlockRows] = {
      codes_64<1, HALVES, CLAMP>, codes_64<2, HALVES, CLAMP>, codes_64<3, HALVES, CLAMP>,
      codes_64<4, HALVES, CLAMP>, codes_64<5, HALVES, CLAMP>, codes_64<6, HALVES, CLAMP>};
  return kCodes[rows - 1];
}

// Largest magnitudes of a run of inputs, as 16 bit patterns to be reduced.
inline __m512i reaches(const float* x, int64_t count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
  if (i < count)
    most = _mm512_max_epi32(
        most, _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes_left(count - i), x + i), magnitude));
  return most;
}

// The largest lane of each of four vectors.
inline __m128i largest_of_four(const __m512i* v) {
  const __m512i ab = _mm512_max_epi32(_mm512_unpacklo_epi32(v[0], v[1]),
                                      _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i cd = _mm512_max_epi32(_mm512_unpacklo_epi32(v[2], v[3]),
                                      _mm512_unpackhi_epi32(v[2], v[3]));
  const __m512i all = _mm512_max_epi32(_mm512_unpacklo_epi64(ab, cd),
                                       _mm512_unpackhi_epi64(ab, cd));
  const __m256i half =
      _mm256_max_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// The reach of every group and row, four at a time, into b.scale.  Whole vectors: it is padded.
inline void find_reaches(const MatMul* op, const Block* b, const float* x) {
  const PackedWeight* w = op->weight;
  const int64_t k = w->k, size = w->group_size;
  const bool whole = op->act_group_size >= k;
  const int64_t runs = whole ? 1 : w->groups, count = runs * b->rows;
  int64_t k0 = 0;
  int32_t r = 0;
  for (int64_t at = 0; at < count; at += 4) {
    __m512i most[4];
    for (int i = 0; i < 4; i++) {
      most[i] = _mm512_setzero_si512();
      if (at + i >= count) continue;
      const int64_t left = k - k0;
      most[i] = reaches(x + r * k + k0, whole || left < size ? left : size);
      if (++r == b->rows) r = 0, k0 += size;
    }
    _mm_storeu_si128((__m128i*)(b->scale + at), largest_of_four(most));
  }
  for (int64_t at = count; at < w->groups * (int64_t)b->rows; at++)
    b->scale[at] = b->scale[at - b->rows];
}

// Two passes over a block: the reach of every group and row, then all scales at once.  Leaves the
// scales in b->scale and their inverses in b->sum; returns a bit for each broken row.
uint32_t find_scales(const MatMul* op, Block* b, const float* x) {
  find_reaches(op, b, x);
  const int64_t count = (int64_t)op->weight->groups * b->rows;
  const bool broken = holds_infinite(b->scale, count);
  uint32_t broken_rows = 0;
  for (int64_t at = 0; broken && at < count; at++)
    if (!(b->scale[at] < INFINITY)) broken_rows |= 1u << at % b->rows;
  scales_of(act_top(op), b->scale, b->sum, count, op->act_scale);
  return broken_rows;
}

}  // namespace

void quantize_avx512(const MatMul* op, int32_t index, const float* x) {
  const PackedWeight* w = op->weight;
  Block b = block_at(op, index);
  const uint32_t broken_rows = find_scales(op, &b, x);
  const bool given = op->act_scale > 0;
  if (w->groups == 1 || w->group_size % 64 == 0) {
    (given ? codes_of<false, true> : codes_of<false, false>)(b.rows)(op, &b, x);
  } else if (w->group_size == 32) {
    (given ? codes_of<true, true> : codes_of<true, false>)(b.rows)(op, &b, x);
  } else {
    codes_16(op, &b, x);
  }
  for (int32_t r = 0; r < b.rows; r++)
    if (broken_rows >> r & 1) poison(w, &b, r);
}

// Groups are whole chunks, or rows.
void quantize_planes_avx512(const MatMul* op, int32_t index, const float* rows_x) {
  const PackedWeight* w = op->weight;
  Block b = block_at(op, index);
  const int32_t rows = b.rows, bits = op->act_bits;
  const uint32_t broken_rows = find_scales(op, &b, rows_x);
  // The channels of a plane's bits in turn: lanes of two vectors.
  alignas(64) int32_t channel[kChunk];
  for (int bit = 0; bit < kChunk; bit++) channel[bit] = channel_of_bit(w->bits, bit);
  const __m512i low = _mm512_load_si512(channel), high = _mm512_load_si512(channel + 16);
  for (int32_t r = 0; r < rows; r++) {
    const float* x = rows_x + r * w->k;
    uint32_t* planes = (uint32_t*)b.q + r;
    for (int32_t g = 0; g < w->groups; g++) {
      const int32_t at = g * rows + r;
      const int64_t count = group_count(w, g);
      const __m512 inverse = _mm512_set1_ps(b.sum[at]);
      __m512i sums = _mm512_setzero_si512();
      for (int64_t left = count; left > 0; left -= kChunk, x += kChunk) {
        const __m512 first = _mm512_maskz_loadu_ps(lanes_left(left), x);
        const __m512 second = _mm512_maskz_loadu_ps(left > 16 ? lanes_left(left - 16) : 0, x + 16);
        const __m512i values[2] = {
            rounded(_mm512_permutex2var_ps(first, low, second), inverse),
            rounded(_mm512_permutex2var_ps(first, high, second), inverse)};
        sums = _mm512_add_epi32(sums, _mm512_add_epi32(values[0], values[1]));
        for (int32_t bit = 0; bit < bits; bit++, planes += rows) {
          const __m512i one = _mm512_set1_epi32(1 << bit);
          *planes = (uint32_t)_mm512_test_epi32_mask(values[1], one) << 16 |
                    (uint32_t)_mm512_test_epi32_mask(values[0], one);
        }
      }
      const int32_t sum = _mm512_reduce_add_epi32(sums);
      b.start[at] = start_of(op, sum, count);
      b.sum[at] = (float)sum;
    }
    if (broken_rows >> r & 1) poison(w, &b, r);
  }
}

void interleave_avx512(const MatMul* op, int32_t index, const float* rows_x) {
  const PackedWeight* w = op->weight;
  Block block = block_at(op, index);
  const int32_t rows = block.rows;
  for (int32_t r = 0; r < rows; r++) {
    const float* x = rows_x + r * w->k;
    const bool broken = _mm512_reduce_max_epi32(reaches(x, w->k)) >= kInfinity;
    block.scale[r] = broken ? NAN : 1.0f;
    for (int64_t k = 0; k < w->k; k++) block.x[k * rows + r] = broken ? 0 : x[k];
    for (int64_t k = w->k; k < padded_k(w); k++) block.x[k * rows + r] = 0;
    for (int32_t g = 0; g < w->groups; g++) {
      const int64_t k0 = (int64_t)g * w->group_size;
      const int64_t count = w->group_size < w->k - k0 ? w->group_size : w->k - k0;
      __m512 sum = _mm512_setzero_ps();
      for (int64_t i = 0; i < count; i += 16)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes_left(count - i), x + k0 + i));
      block.sum[g * rows + r] = broken ? 0 : _mm512_reduce_add_ps(sum);
    }
  }
}

}  // namespace bitfold
