// Y = X . W^T for a packed low-bit weight: what the driver and the ISA files share.
//
// X is prepared once a call, in blocks of at most `block_rows` rows.  A block holds its rows
// interleaved, so that one pointer reaches every row of a step:
//
//   acts=intN:  q     int32 [Kpad / 4][rows]  four int8 activations each
//               scale float [groups][rows]    s_a, NaN for a row that holds a NaN or infinity
//               start int32 [groups][rows]    -op->offset * sum of q over the group
//               sum   float [groups][rows]    sum of q over the group
//
// A row of floats (acts=none) is `digits` such rows, of fixed point, whose sums are added up; or,
// where an ISA does not write it so, or levels are floats:
//
//               x     float [Kpad][rows]
//               scale float [1][rows]         1, or NaN for such a row
//               sum   float [groups][rows]    sum of x over the group
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../packed_weight.h"
#include "low_rank.h"
#include "prologue.h"

namespace bitfold {

// What is applied to the biased sums.
enum Activation : int32_t {
  kIdentity,
  kSwiGlu,  // tile 2i is gate, tile 2i + 1 up
  kRelu,
  kGelu,      // x/2 (1 + erf(x / sqrt 2))
  kGeluTanh,  // x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
};

// A run of output columns that goes to a tensor of its own.
struct Part {
  float* y;       // [rows][columns]
  int64_t first;  // a multiple of kTile
  int64_t columns;
};

struct MaskedKernels;

struct MatMul {
  const PackedWeight* weight;
  const MaskedKernels* masked;  // for a weight that has masks: see masked.h
  const float* bias;      // [n] or null
  const float* residual;  // [rows][columns], added last, or null
  Activation activation;
  bool int8;               // acts of eight bits or less
  int32_t act_bits;        // their bits: 8, 4, 3, 2 or 1
  int64_t act_group_size;  // k, or the weight's group size
  float act_scale;         // of every activation; 0 where groups have their own
  Prologue prologue;
  bool skips;              // rows have columns that are zero throughout
  LowRank low_rank;        // added to the sums
  const float* input_scales;  // [J][k], of X behind the prologue; or null
  int32_t scaled_tiles;       // that each of them is for
  int64_t rows;            // M
  int32_t digits;          // int8 rows that each is written as: 1, or those of fixed point
  const float* x;          // [rows][k]
  const Part* parts;       // of Y, from left to right: no tile belongs to two
  int32_t part_count;
  int64_t columns;         // n, or n / 2 with kSwiGlu
  bool streamed;           // the weight will come from memory: no cache holds all that a model has
  int32_t offset;          // of the operand bytes that the kernels will multiply
  int32_t blocks;          // of rows, as even as possible
  uint8_t* acts;           // the blocks, `block_stride` bytes apart
  int64_t block_stride;
};

// X of so many inputs comes from beyond a core's L2.
constexpr int64_t kFarInputs = 256 << 10;

struct Block {
  int32_t rows;   // of q or x: `digits` for each of X
  int64_t first;  // row of X
  int32_t* q;
  float* x;
  float* scale;
  int32_t* start;
  float* sum;
};

static inline int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// Bytes of a block of `rows` rows.
static inline int64_t block_bytes(const PackedWeight* w, bool int8, int64_t rows) {
  int64_t data = padded_k(w) * rows * (int8 ? 1 : 4);
  return round_up(data, 64) + 3 * round_up((int64_t)w->groups * rows * 4, 64);
}

static inline int64_t int8_rows(const MatMul* op) { return op->rows * op->digits; }

// The largest level of activations of two bits or more.
static inline float act_top(const MatMul* op) { return (float)((1 << (op->act_bits - 1)) - 1); }

// Whether a row has one scale, which its sums may be multiplied by in the end.
static inline bool has_row_scales(const MatMul* op) {
  return op->digits == 1 && op->act_group_size >= op->weight->k;
}

static inline bool is_paired(const MatMul* op) { return op->activation == kSwiGlu; }

// The part that column n belongs to.
static inline const Part* part_of(const MatMul* op, int64_t n) {
  const Part* part = op->parts + op->part_count - 1;
  while (part->first > n) part--;
  return part;
}

static inline Block block_at(const MatMul* op, int32_t index) {
  Block b;
  int64_t each = op->rows / op->blocks, more = op->rows % op->blocks;
  b.rows = (int32_t)(each + (index < more)) * op->digits;
  b.first = index * each + (index < more ? index : more);
  uint8_t* at = op->acts + index * op->block_stride;
  int64_t data = padded_k(op->weight) * b.rows * (op->int8 ? 1 : 4);
  int64_t part = round_up((int64_t)op->weight->groups * b.rows * 4, 64);
  b.q = (int32_t*)at;
  b.x = (float*)at;
  at += round_up(data, 64);
  b.scale = (float*)at;
  b.start = (int32_t*)(at + part);
  b.sum = (float*)(at + 2 * part);
  return b;
}

// The sums [rows][16] of X's rows from those of their digits, in place.
static inline void add_digits(const MatMul* op, int32_t rows, float* sums) {
  const int32_t digits = op->digits;
  for (int32_t r = 0; r < rows; r++)
    for (int lane = 0; lane < kTile; lane++) {
      float sum = 0;
      for (int32_t d = digits - 1; d >= 0; d--)  // the lowest one first
        sum += sums[(r * digits + d) * kTile + lane];
      sums[r * kTile + lane] = sum;
    }
}

// A block of rows of X, after the sums of their digits, of one tile or two, are added up.
static inline Block whole_rows(const MatMul* op, const Block* b, float* sums, float* up_sums) {
  Block whole = *b;
  if (op->digits == 1) return whole;
  whole.rows /= op->digits;
  add_digits(op, whole.rows, sums);
  if (is_paired(op)) add_digits(op, whole.rows, up_sums);
  return whole;
}

// Scratch bytes for weights of float levels: the levels of one tile, or two, the codes of one and
// the lines of a masked one.
static inline int64_t values_scratch(const MatMul* op) {
  const int64_t levels = (is_paired(op) ? 2 : 1) * (int64_t)sizeof(float);
  return (levels + 1) * padded_k(op->weight) * kTile +
         (op->weight->masks ? tile_bytes(op->weight) : 0);
}

// One ISA's kernels.
struct MatMulKernels {
  const char* isa;
  int32_t block_rows;
  // The offset that `quantize` must remove for this number of rows: see MatMul.
  int32_t (*offset)(const MatMul* op);
  // The prologue of one row.
  PrepareRow prepare_row;
  // What the low-rank branch makes of rows of X.
  Project project;
  // Prepare one block, whose rows [rows][k] are those at x: round them to int8, or only
  // interleave them.
  void (*quantize)(const MatMul* op, int32_t block, const float* x);
  void (*interleave)(const MatMul* op, int32_t block, const float* x);
  // Scratch bytes that one call of `multiply` needs.
  int64_t (*scratch)(const MatMul* op);
  // Y for the tiles [tile0, tile1) (an even range with kSwiGlu) and blocks [block0, block1).
  void (*multiply)(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                   int32_t block1, uint8_t* scratch);
  // The int8 rows that `quantize` makes of a row of floats; 0, or null, where that goes through
  // `interleave`.
  int32_t (*float_digits)(const MatMul* op) = nullptr;
};

extern const MatMulKernels kMatMulRef;
#if defined(BITFOLD_X86)
extern const MatMulKernels kMatMulAvx2;
extern const MatMulKernels kMatMulAvxVnni;
extern const MatMulKernels kMatMulAvx512Vnni;
extern const MatMulKernels kMatMulAvx512Vbmi;
#elif defined(BITFOLD_ARM64)
extern const MatMulKernels kMatMulNeon;
#endif

// Run a multiplication: `parallel(context, fn, data, count)` calls fn(data, i) for every i below
// count, on any threads.  Each element of Y is computed by one call, in one order.
typedef void (*ParallelFor)(void* context, void (*fn)(void*, size_t), void* data, size_t count);
// False when there is no memory.
bool run_matmul(const MatMulKernels* kernels, MatMul op, ParallelFor parallel, void* context);

}  // namespace bitfold
