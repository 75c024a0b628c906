// AVX2: every tile is decoded into operand bytes that stay in L1 or L2, then multiplied by all
// blocks of rows; half a tile (8 outputs) and up to four rows at a time.

#include "avx2.h"

namespace bitfold {
namespace {

constexpr int kBlockRows = 4;

// How operand bytes u are multiplied by int8 activations, by what 16 bits can hold.
enum Range {
  kNarrow,  // u <= 31: vpmaddubsw sums of 16 input channels fit
  kWide,    // u <= 127: those of two do
  kSigned,  // else: |u - 128| times the activation with the sign of u - 128
};

template <int RANGE, int R>
inline void half_chunk(__m256i* acc, const uint8_t* line, const int32_t* q) {
  const __m256i ones = _mm256_set1_epi16(1);
  if (RANGE == kNarrow) {
    __m256i pairs[R];
    for (int s = 0; s < 4; s++) {
      const __m256i u = _mm256_loadu_si256((const __m256i*)(line + s * kLine));
      for (int r = 0; r < R; r++) {
        __m256i product = _mm256_maddubs_epi16(u, _mm256_set1_epi32(q[s * R + r]));
        pairs[r] = s == 0 ? product : _mm256_add_epi16(pairs[r], product);
      }
    }
    for (int r = 0; r < R; r++)
      acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(pairs[r], ones));
    return;
  }
  for (int s = 0; s < 4; s++) {
    __m256i u = _mm256_loadu_si256((const __m256i*)(line + s * kLine));
    __m256i level = _mm256_xor_si256(u, _mm256_set1_epi8((char)0x80));
    if (RANGE == kSigned) u = _mm256_abs_epi8(level);
    for (int r = 0; r < R; r++) {
      __m256i a = _mm256_set1_epi32(q[s * R + r]);
      if (RANGE == kSigned) a = _mm256_sign_epi8(a, level);
      acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(_mm256_maddubs_epi16(u, a), ones));
    }
  }
}

// Sums of 8 outputs and R rows, with 16 floats from row to row.
template <int RANGE, int R>
void dot_int8(const MatMul* op, const Block* b, int32_t tile, int half_tile, const uint8_t* panel,
              float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t halves = (w->k + 15) / 16, group_halves = (w->group_size + 15) / 16;
  const uint8_t* line = panel + 32 * half_tile;
  const int32_t* q = b->q;
  __m256 total[R];
  for (int r = 0; r < R; r++) total[r] = _mm256_setzero_ps();
  int64_t half = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    __m256i acc[R];
    for (int r = 0; r < R; r++)  // signed levels need no offset removed
      acc[r] = RANGE == kSigned ? _mm256_setzero_si256() : _mm256_set1_epi32(b->start[g * R + r]);
    const int64_t end = half + group_halves < halves ? half + group_halves : halves;
    for (; half < end; half++, line += 4 * kLine, q += 4 * R) half_chunk<RANGE, R>(acc, line, q);
    const int64_t at = ((int64_t)tile * w->groups + g) * 2 + half_tile;
    const __m256 scale = scales_at(w, at);
    const __m256 zero = w->zero_points ? zeros_at(w, at) : _mm256_setzero_ps();
    for (int r = 0; r < R; r++) {
      __m256 part = _mm256_fnmadd_ps(zero, _mm256_broadcast_ss(b->sum + g * R + r),
                                     _mm256_cvtepi32_ps(acc[r]));
      total[r] = _mm256_fmadd_ps(_mm256_mul_ps(part, scale),
                                 _mm256_broadcast_ss(b->scale + g * R + r), total[r]);
    }
  }
  for (int r = 0; r < R; r++) _mm256_storeu_ps(sums + r * kTile + 8 * half_tile, total[r]);
}

template <int R>
void dot_float(const MatMul* op, const Block* b, int32_t tile, int half_tile,
               const uint8_t* panel, float* sums) {
  const PackedWeight* w = op->weight;
  const int64_t halves = (w->k + 15) / 16, group_halves = (w->group_size + 15) / 16;
  const __m256i offset = _mm256_set1_epi8((char)w->offset);
  const uint8_t* line = panel + 32 * half_tile;
  const float* x = b->x;
  __m256 total[R];
  for (int r = 0; r < R; r++) total[r] = _mm256_setzero_ps();
  int64_t half = 0;
  for (int32_t g = 0; g < w->groups; g++) {
    __m256 acc[R];
    for (int r = 0; r < R; r++) acc[r] = _mm256_setzero_ps();
    const int64_t end = half + group_halves < halves ? half + group_halves : halves;
    for (; half < end; half++)
      for (int s = 0; s < 4; s++, line += kLine, x += 4 * R) {
        const __m256i level =
            _mm256_sub_epi8(_mm256_loadu_si256((const __m256i*)line), offset);
        const __m256 value[4] = {
            _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(level, 24), 24)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(level, 16), 24)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(level, 8), 24)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(level, 24))};
        for (int j = 0; j < 4; j++)
          for (int r = 0; r < R; r++)
            acc[r] = _mm256_fmadd_ps(value[j], _mm256_broadcast_ss(x + j * R + r), acc[r]);
      }
    const int64_t at = ((int64_t)tile * w->groups + g) * 2 + half_tile;
    const __m256 scale = scales_at(w, at);
    const __m256 zero = w->zero_points ? zeros_at(w, at) : _mm256_setzero_ps();
    for (int r = 0; r < R; r++) {
      acc[r] = _mm256_fnmadd_ps(zero, _mm256_broadcast_ss(b->sum + g * R + r), acc[r]);
      total[r] = _mm256_fmadd_ps(acc[r], scale, total[r]);
    }
  }
  for (int r = 0; r < R; r++)
    _mm256_storeu_ps(sums + r * kTile + 8 * half_tile,
                     _mm256_mul_ps(total[r], _mm256_broadcast_ss(b->scale + r)));
}

typedef void (*Dot)(const MatMul* op, const Block* b, int32_t tile, int half_tile,
                    const uint8_t* panel, float* sums);

const Dot kDots[4][kBlockRows] = {
    {dot_int8<kNarrow, 1>, dot_int8<kNarrow, 2>, dot_int8<kNarrow, 3>, dot_int8<kNarrow, 4>},
    {dot_int8<kWide, 1>, dot_int8<kWide, 2>, dot_int8<kWide, 3>, dot_int8<kWide, 4>},
    {dot_int8<kSigned, 1>, dot_int8<kSigned, 2>, dot_int8<kSigned, 3>, dot_int8<kSigned, 4>},
    {dot_float<1>, dot_float<2>, dot_float<3>, dot_float<4>}};

const Dot* dots(const MatMul* op) {
  const PackedWeight* w = op->weight;
  if (!op->int8) return kDots[3];
  if (w->has_table || w->bits == 8) return kDots[kSigned];
  return kDots[w->bits <= 5 ? kNarrow : kWide];
}

void multiply(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0, int32_t block1,
              uint8_t* scratch) {
  const PackedWeight* w = op->weight;
  if (w->has_values) return multiply_values_avx2(op, tile0, tile1, block0, block1, scratch);
  alignas(32) float sums[2 * kBlockRows * kTile];
  const int64_t bytes = padded_k(w) * kTile;
  const int32_t by = is_paired(op) ? 2 : 1;
  const Decode decode_tile = decoder(w);
  const Dot* dot = dots(op);
  for (int32_t tile = tile0; tile < tile1; tile += by) {
    const uint8_t* panel = scratch;
    if (w->bits == 8 && !w->has_table) {
      panel = w->packed + tile * bytes;
    } else {
      for (int32_t t = 0; t < by; t++) decode_tile(w, tile + t, scratch + t * bytes);
    }
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      float* up_sums = sums + (by - 1) * b.rows * kTile;
      for (int32_t t = 0; t < by; t++)
        for (int half = 0; half < 2; half++)
          dot[b.rows - 1](op, &b, tile + t, half, panel + t * bytes, t ? up_sums : sums);
      write(op, &b, tile, sums, up_sums);
    }
  }
}

int32_t offset(const MatMul* op) { return op->weight->offset; }

int64_t scratch(const MatMul* op) {
  if (op->weight->has_values) return values_scratch(op);
  return (is_paired(op) ? 2 : 1) * padded_k(op->weight) * kTile;
}

}  // namespace

const MatMulKernels kMatMulAvx2 = {"avx2",          kBlockRows, offset,  quantize_avx2,
                                   interleave_avx2, scratch,    multiply};

}  // namespace bitfold
