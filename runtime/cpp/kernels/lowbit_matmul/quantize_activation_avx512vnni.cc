// Prepare blocks of X on AVX-512: round rows to bytes, or to planes of bits, and interleave them, or
// only interleave.
//
// Plain multiplications and divisions in f32, in the specification's order: the codes are the
// same as those of a stock-ONNX function body.

#include "broken_row.h"
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

// How R rows of 16 int32 become [16][R].  A row has its int32 in the order that packing leaves:
// 4 (i % 4) + i / 4.  Rows of a pair are first unpacked into two vectors, of which the first holds
// the int32 i < 8 of both; the last row of an odd number stays as it is.  Vector j of the result
// takes lane `from[j][p]` of the source whose mask has bit p.
template <int R>
struct Interleaving {
  static constexpr int kSources = R / 2 * 2 + R % 2;
  alignas(64) int32_t from[R][16];
  __mmask16 of[R][kSources];
  constexpr Interleaving() : from(), of() {
    for (int at = 0; at < 16 * R; at++) {
      const int i = at / R, r = at % R, lane = i % 4 * 4;
      const bool paired = r / 2 * 2 + 1 < R;
      const int source = paired ? r / 2 * 2 + i / 8 : r;
      from[at / 16][at % 16] = lane + (paired ? i / 4 % 2 * 2 + r % 2 : i / 4);
      of[at / 16][source] = (__mmask16)(of[at / 16][source] | 1 << at % 16);
    }
  }
};

template <int R>
constexpr Interleaving<R> kInterleaving{};

// Vector j of the interleaved sources.
template <int R, int J, int SOURCE = 0>
inline __attribute__((always_inline)) __m512i interleaved(const __m512i* sources, __m512i from,
                                                          __m512i so_far) {
  if constexpr (SOURCE == Interleaving<R>::kSources) {
    return so_far;
  } else {
    constexpr __mmask16 kMask = kInterleaving<R>.of[J][SOURCE];
    if constexpr (kMask != 0)
      so_far = _mm512_mask_permutexvar_epi32(so_far, kMask, from, sources[SOURCE]);
    return interleaved<R, J, SOURCE + 1>(sources, from, so_far);
  }
}

// Write the interleaved int32 of R rows, from vector J on; q has room for `room` of them, or WHOLE
// vectors.
template <int R, bool WHOLE, int J = 0>
inline __attribute__((always_inline)) void write_interleaved(const __m512i* sources, int32_t* q,
                                                             int64_t room) {
  if constexpr (J < R) {
    const __m512i from = _mm512_load_si512(kInterleaving<R>.from[J]);
    const __m512i mixed = interleaved<R, J>(sources, from, _mm512_setzero_si512());
    if (WHOLE) {
      _mm512_storeu_si512(q + 16 * J, mixed);
    } else if (room > 16 * J) {
      _mm512_mask_storeu_epi32(q + 16 * J, lanes_left(room - 16 * J), mixed);
    }
    write_interleaved<R, WHOLE, J + 1>(sources, q, room);
  }
}

// Codes of up to 64 inputs, or of 64 if WHOLE, as int32 of four, in packing's order.  `high` scales
// the second half.
template <bool CLAMP, bool WHOLE>
inline __attribute__((always_inline)) __m512i round_64(const float* x, int64_t count, __m512 low,
                                                       __m512 high) {
  __m512i value[4];
  BITFOLD_UNROLL
  for (int i = 0; i < 4; i++) {
    const __mmask16 there = count > 16 * i ? lanes_left(count - 16 * i) : 0;
    const __m512 from =
        WHOLE ? _mm512_loadu_ps(x + 16 * i) : _mm512_maskz_loadu_ps(there, x + 16 * i);
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

// The lanes of each of N vectors, up to 16, reduced to one: [N].
template <int N, class Reduce>
inline __attribute__((always_inline)) __m512i reduce_lanes(const __m512i (&v)[N], Reduce reduce) {
  const auto at = [&](int i) { return i < N ? v[i] : _mm512_setzero_si512(); };
  __m512i fours[4];  // 128 bits of vectors 4i to 4i + 3, four times
  BITFOLD_UNROLL
  for (int i = 0; i < (N + 3) / 4; i++) {
    const __m512i a = at(4 * i), b = at(4 * i + 1), c = at(4 * i + 2), d = at(4 * i + 3);
    const __m512i ab = reduce(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = reduce(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    fours[i] = reduce(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  }
  const auto both = [&](__m512i a, __m512i b) {
    return reduce(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
  };
  const __m512i low = both(fours[0], N > 4 ? fours[1] : fours[0]);
  const __m512i high = N > 12 ? both(fours[2], fours[3]) : N > 8 ? both(fours[2], fours[2]) : low;
  return both(low, high);
}

inline __m512i sum_of_two(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
inline __m512i larger_of_two(__m512i a, __m512i b) { return _mm512_max_epi32(a, b); }

// Store the first N lanes and touch no others: what lies behind is read soon, and would have to wait
// for a store that is masked.
template <int N>
inline __attribute__((always_inline)) void store_first(void* to, __m512i v) {
  int32_t* at = (int32_t*)to;
  if (N & 8) {
    _mm256_storeu_si256((__m256i*)at, _mm512_castsi512_si256(v));
    v = _mm512_shuffle_i32x4(v, v, 0xee), at += 8;
  }
  __m128i rest = _mm512_castsi512_si128(v);
  if (N & 4) _mm_storeu_si128((__m128i*)at, rest), rest = _mm512_extracti32x4_epi32(v, 1), at += 4;
  if (N & 2) _mm_storel_epi64((__m128i*)at, rest), rest = _mm_unpackhi_epi64(rest, rest), at += 2;
  if (N & 1) *at = _mm_cvtsi128_si32(rest);
}

// Codes of up to 64 inputs of R rows, or of 64 if WHOLE, into q, which has room for `room` int32;
// their sums are added to `sums`: those of the second half, with HALVES, to sums[R] and on.
template <int R, bool HALVES, bool CLAMP, bool WHOLE>
inline __attribute__((always_inline)) void codes_of_span(
    const float* x, int64_t k, int64_t count, const __m512 (&low)[R], const __m512 (&high)[R],
    int32_t* q, int64_t room, __m512i (&sums)[HALVES ? 2 * R : R]) {
  // In packing's order the first half is in lanes 0 and 1 of every four.
  const __m512i first = HALVES ? _mm512_maskz_set1_epi32(0x3333, 0x01010101) : _mm512_set1_epi8(1);
  const __m512i second = _mm512_maskz_set1_epi32(0xcccc, 0x01010101);
  __m512i codes[R], sources[R];
  BITFOLD_UNROLL
  for (int r = 0; r < R; r++) {
    codes[r] = round_64<CLAMP, WHOLE>(x + r * k, count, low[r], high[r]);
    sums[r] = _mm512_dpbusd_epi32(sums[r], first, codes[r]);
    if (HALVES) sums[R + r] = _mm512_dpbusd_epi32(sums[R + r], second, codes[r]);
  }
  BITFOLD_UNROLL
  for (int r = 0; r < R; r += 2) {
    sources[r] = codes[r];
    if (r + 1 == R) break;
    sources[r] = _mm512_unpacklo_epi32(codes[r], codes[r + 1]);
    sources[r + 1] = _mm512_unpackhi_epi32(codes[r], codes[r + 1]);
  }
  write_interleaved<R, WHOLE>(sources, q, room);
}

// Fetch 64 inputs of the R rows of the next block.
template <int R>
inline void fetch_rows(const float* x, int64_t k) {
  BITFOLD_UNROLL
  for (int r = 0; r < R; r++)
    BITFOLD_UNROLL
    for (int line = 0; line < 4; line++)
      _mm_prefetch((const char*)(x + r * k + 16 * line), _MM_HINT_T0);
}

// Write codes of 64 inputs of R rows at a time.  Groups are multiples of 64, or, with HALVES, 32.
template <int R, bool HALVES, bool CLAMP>
void codes_64(const MatMul* op, const Block* b, const float* x) {
  const PackedWeight* w = op->weight;
  const int64_t k = w->k, padded = padded_k(w);
  const int32_t by = HALVES ? 2 : 1;
  const int64_t span = HALVES ? 64 : w->group_size;
  const bool far = op->rows * k >= kFarInputs && !has_prologue(&op->prologue);
  int64_t k0 = 0;
  for (int32_t g = 0; g < w->groups; g += by) {
    const int64_t end = k0 + span < k ? k0 + span : k, at = (int64_t)g * R;
    const bool second = HALVES && g + 1 < w->groups;
    const float* inverses = b->sum + at;
    __m512 low[R], high[R];
    __m512i sums[HALVES ? 2 * R : R];
    BITFOLD_UNROLL
    for (int r = 0; r < R; r++) {
      low[r] = _mm512_set1_ps(inverses[r]);
      high[r] = HALVES ? _mm512_set1_ps(inverses[second ? R + r : r]) : low[r];
      sums[r] = sums[HALVES ? R + r : r] = _mm512_setzero_si512();
    }
    for (; k0 + 64 <= end; k0 += 64) {
      if (far) fetch_rows<R>(x + R * k + k0, k);
      codes_of_span<R, HALVES, CLAMP, true>(x + k0, k, 64, low, high, b->q + k0 / 4 * R, 16 * R,
                                            sums);
    }
    if (k0 < end)
      codes_of_span<R, HALVES, CLAMP, false>(x + k0, k, end - k0, low, high, b->q + k0 / 4 * R,
                                             (padded - k0) / 4 * R, sums);
    k0 = end;
    const __m512i sum = reduce_lanes(sums, sum_of_two);
    const __m512i start = _mm512_mullo_epi32(sum, _mm512_set1_epi32(-op->offset));
    const __m512i levels = _mm512_castps_si512(_mm512_cvtepi32_ps(sum));
    if (second) {
      store_first<2 * R>(b->start + at, start);
      store_first<2 * R>(b->sum + at, levels);
    } else {
      store_first<R>(b->start + at, start);
      store_first<R>(b->sum + at, levels);
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

// Largest magnitudes of a run of inputs, usually SIZE of them or, with 0, any number, as 16 bit
// patterns to be reduced.
template <int SIZE>
inline __m512i reaches(const float* x, int64_t count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
  int64_t i = 0;
  if (SIZE && count >= SIZE) {
    BITFOLD_UNROLL
    for (; i < SIZE; i += 16)
      most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
    return most;
  }
  for (; i + 16 <= count; i += 16)
    most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
  if (i < count)
    most = _mm512_max_epi32(
        most, _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes_left(count - i), x + i), magnitude));
  return most;
}

// The reach of every group and row, 16 at a time, into b.scale.  Whole vectors: it is padded.
template <int SIZE>
void find_reaches(const MatMul* op, const Block* b, const float* x) {
  const PackedWeight* w = op->weight;
  const int64_t k = w->k, size = w->group_size;
  const bool whole = op->act_group_size >= k;
  const int64_t runs = whole ? 1 : w->groups, count = runs * b->rows;
  int64_t k0 = 0;
  int32_t r = 0;
  for (int64_t at = 0; at < count; at += 16) {
    __m512i most[16];
    BITFOLD_UNROLL
    for (int i = 0; i < 16; i++) {
      most[i] = _mm512_setzero_si512();
      if (at + i >= count) continue;
      const int64_t left = k - k0;
      most[i] = reaches<SIZE>(x + r * k + k0, whole || left < size ? left : size);
      if (++r == b->rows) r = 0, k0 += size;
    }
    _mm512_storeu_si512(b->scale + at, reduce_lanes(most, larger_of_two));
  }
  for (int64_t at = count; at < w->groups * (int64_t)b->rows; at++)
    b->scale[at] = b->scale[at - b->rows];
}

// Two passes over a block: the reach of every group and row, then all scales at once.  Leaves the
// scales in b->scale and their inverses in b->sum; returns a bit for each broken row.
uint32_t find_scales(const MatMul* op, Block* b, const float* x) {
  const bool grouped = op->act_group_size < op->weight->k;
  const int32_t size = grouped ? op->weight->group_size : 0;
  (size == 32 ? find_reaches<32> : size == 128 ? find_reaches<128> : find_reaches<0>)(op, b, x);
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
  if (op->digits > 1) return write_fixed_rows_avx512(op, index, x);
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
    const bool broken = _mm512_reduce_max_epi32(reaches<0>(x, w->k)) >= kInfinity;
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
