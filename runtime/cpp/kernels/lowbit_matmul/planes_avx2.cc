// Bit-plane products on AVX2: bits of half bytes are looked up; half a tile (8 outputs) and up to
// four rows at a time.

#include "avx2.h"
#include "planes_avx2.h"

namespace bitfold {
namespace {

constexpr int kBlockRows = 4;
constexpr int kMostProducts = 2;  // beyond, bytes are faster
// Chunks whose counts, at most 2 * 8 * 127 a product in 16 bits, are added up before they widen.
constexpr int kChunksAtOnce = 6;
static_assert(kChunksAtOnce * kMostProducts * 2 * 8 * 127 < 1 << 15, "16 bits hold them");

inline __m256i bits_of_bytes(__m256i x) {
  const __m256i counts = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i half = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256(x, half);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), half);
  return _mm256_add_epi8(_mm256_shuffle_epi8(counts, low), _mm256_shuffle_epi8(counts, high));
}

// The planes of half the lanes of a chunk of codes of one or two bits; see channel_of_bit.
template <int BITS>
inline void load_planes(const uint8_t* chunk, __m256i* plane) {
  const __m256i first = _mm256_loadu_si256((const __m256i*)chunk);
  if (BITS == 1) {
    plane[0] = first;
    return;
  }
  const __m256i second = _mm256_loadu_si256((const __m256i*)(chunk + kLine));
  const __m256i even = _mm256_set1_epi8(0x55);
  plane[0] = _mm256_or_si256(_mm256_and_si256(first, even),
                             _mm256_slli_epi32(_mm256_and_si256(second, even), 1));
  plane[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(first, 1), even),
                             _mm256_andnot_si256(even, second));
}

template <int BITS, int ACTS, int R>
void dot_planes(const MatMul* op, const Block* b, int32_t tile, int half_tile, float* sums) {
  const PackedWeight* w = op->weight;
  const uint8_t* bytes = w->packed + tile * tile_bytes(w) + 32 * half_tile;
  const int32_t each = w->groups == 1 ? w->chunks : w->group_size / kChunk;
  const __m256i ones = _mm256_set1_epi16(1);
  const uint32_t* a = (const uint32_t*)b->q;
  __m256i factor[BITS][ACTS];
  for (int i = 0; i < BITS; i++)
    for (int j = 0; j < ACTS; j++) factor[i][j] = _mm256_set1_epi8((char)factor_of(op, i, j));
  __m256 total[R];
  for (int r = 0; r < R; r++) total[r] = _mm256_setzero_ps();
  for (int32_t g = 0, chunk = 0; g < w->groups; g++) {
    __m256i acc[R];
    for (int r = 0; r < R; r++) acc[r] = _mm256_set1_epi32(b->start[g * R + r]);
    const int32_t end = chunk + each < w->chunks ? chunk + each : w->chunks;
    while (chunk < end) {
      __m256i pairs[R];
      for (int r = 0; r < R; r++) pairs[r] = _mm256_setzero_si256();
      for (int some = 0; some < kChunksAtOnce && chunk < end; some++, chunk++) {
        __m256i plane[2];
        load_planes<BITS>(bytes, plane);
        bytes += BITS * kLine;
        for (int j = 0; j < ACTS; j++)
          for (int r = 0; r < R; r++) {
            const __m256i act = _mm256_set1_epi32((int)*a++);
            for (int i = 0; i < BITS; i++) {
              const __m256i both = ACTS == 1 ? _mm256_xor_si256(plane[i], act)
                                             : _mm256_and_si256(plane[i], act);
              pairs[r] = _mm256_add_epi16(
                  pairs[r], _mm256_maddubs_epi16(bits_of_bytes(both), factor[i][j]));
            }
          }
      }
      for (int r = 0; r < R; r++)
        acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(pairs[r], ones));
    }
    const int64_t at = ((int64_t)tile * w->groups + g) * 2 + half_tile;
    const __m256 scale = scales_at(w, at);
    const __m256 zero = w->zero_points ? zeros_at(w, at) : _mm256_setzero_ps();
    for (int r = 0; r < R; r++) {
      const __m256 part = _mm256_fnmadd_ps(zero, _mm256_broadcast_ss(b->sum + g * R + r),
                                           _mm256_cvtepi32_ps(acc[r]));
      total[r] = _mm256_fmadd_ps(_mm256_mul_ps(part, scale),
                                 _mm256_broadcast_ss(b->scale + g * R + r), total[r]);
    }
  }
  for (int r = 0; r < R; r++) _mm256_storeu_ps(sums + r * kTile + 8 * half_tile, total[r]);
}

typedef void (*PlaneDot)(const MatMul* op, const Block* b, int32_t tile, int half_tile,
                         float* sums);

template <int BITS, int ACTS>
struct OfRows {
  static constexpr PlaneDot kDots[kBlockRows] = {dot_planes<BITS, ACTS, 1>,
                                                 dot_planes<BITS, ACTS, 2>,
                                                 dot_planes<BITS, ACTS, 3>,
                                                 dot_planes<BITS, ACTS, 4>};
};

const PlaneDot* plane_dots(int32_t bits, int32_t acts) {
  if (bits == 2) return OfRows<2, 1>::kDots;
  return acts == 2 ? OfRows<1, 2>::kDots : OfRows<1, 1>::kDots;
}

void quantize(const MatMul* op, int32_t index, const float* x) {
  if (op->act_bits == 1) return binarize_block(op, index, x);
  quantize_avx2(op, index, x);
  Block b = block_at(op, index);
  planes_of_bytes(op, &b);
}

void multiply(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0, int32_t block1,
              uint8_t*) {
  const PlaneDot* dots = plane_dots(op->weight->bits, op->act_bits);
  const int32_t by = is_paired(op) ? 2 : 1;
  alignas(32) float sums[2 * kBlockRows * kTile];
  for (int32_t tile = tile0; tile < tile1; tile += by)
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op, index);
      float* up_sums = sums + (by - 1) * b.rows * kTile;
      for (int32_t t = 0; t < by; t++)
        for (int half = 0; half < 2; half++)
          dots[b.rows - 1](op, &b, tile + t, half, t ? up_sums : sums);
      write(op, &b, tile, sums, up_sums);
    }
}

int32_t offset(const MatMul* op) { return op->weight->offset; }

int64_t scratch(const MatMul*) { return 0; }

}  // namespace

const PlaneKernels kPlanesAvx2 = {
    {"avx2", kBlockRows, offset, prepare_row_avx2, project_avx2, quantize, nullptr, scratch,
     multiply},
    kMostProducts};

}  // namespace bitfold
