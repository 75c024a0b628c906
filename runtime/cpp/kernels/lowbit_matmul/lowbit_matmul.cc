// The driver: prepare X once, then share out tiles of outputs (and row blocks) over threads.

#include "lowbit_matmul.h"

#include <algorithm>
#include <atomic>

#include "../scratch.h"
#include "prepared_rows.h"
#include "skip_columns.h"

namespace bitfold {
namespace {

// Work below this many byte-sized steps (weight bytes read, or eight multiply-adds) is done
// by the calling thread: waking another one costs as much.
constexpr int64_t kWorthAThread = 256 << 10;
// Such steps that quantizing an input takes as long as, and its prologue.
constexpr int64_t kQuantizeSteps = 5, kPrologueSteps = 8;
// Rows of prepared activations that a task goes over should stay in a core's L2.
constexpr int64_t kActBytes = 768 << 10;
constexpr int64_t kMaxTasks = 32;

struct Call {
  const MatMulKernels* kernels;
  const MatMul* op;
  Span tiles;
  int32_t tile_parts, block_parts;
  std::atomic<bool>* starved;  // a thread found no memory
};

// Tiles stay together in twos: kernels multiply two at a time, and SwiGLU needs both.
int64_t pairs_of(Span tiles) { return (tiles.last - tiles.first + 1) / 2; }

// How much work tiles are, in byte-sized steps.
int64_t work_of(const MatMul* op, int64_t tiles) {
  const PackedWeight* w = op->weight;
  return std::max<int64_t>(tile_bytes(w), int8_rows(op) * padded_k(w) * kTile / 8) * tiles;
}

int64_t split(int64_t total, int64_t parts, int64_t index) { return total * index / parts; }

// Fetch a row that is needed next.
void fetch(const float* x, int64_t k) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < k; i += 16) __builtin_prefetch(x + i);
#else
  (void)x, (void)k;
#endif
}

void prepare(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const MatMul* op = call->op;
  auto prepare_block = op->int8 ? call->kernels->quantize : call->kernels->interleave;
  auto first = static_cast<int32_t>(split(op->blocks, call->block_parts, index));
  auto last = static_cast<int32_t>(split(op->blocks, call->block_parts, index + 1));
  float *rows = nullptr, *scratch = nullptr;
  const int64_t k = op->weight->k;
  const bool far = op->rows * k >= kFarInputs;
  if (has_prologue(&op->prologue)) {
    const int64_t most = round_up(call->kernels->block_rows * k, kLine);
    scratch = reinterpret_cast<float*>(thread_scratch(
        Scratch::kPrologue, (most + prologue_scratch(&op->prologue)) * sizeof(float)));
    if (scratch == nullptr) {
      call->starved->store(true);
      return;
    }
    rows = scratch + prologue_scratch(&op->prologue);
  }
  for (int32_t block = first; block < last; block++) {
    const Block b = block_at(op, block);
    const float* x = op->x + b.first * k;
    for (int32_t r = 0; rows && r < b.rows / op->digits; r++) {
      if (far) fetch(x + (r + 1) * k, k);
      if (!prepare_whole_row(call->kernels->prepare_row, &op->prologue, x + r * k, rows + r * k, k,
                             scratch))
        return call->starved->store(true);
    }
    prepare_block(op, block, rows ? rows : x);
  }
}

void multiply(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const MatMul* op = call->op;
  const Span all = call->tiles;
  int64_t pairs = pairs_of(all);
  int64_t tile = index % call->tile_parts, block = index / call->tile_parts;
  uint8_t* scratch = thread_scratch(Scratch::kPanel, call->kernels->scratch(op));
  if (scratch == nullptr) {
    call->starved->store(true);
    return;
  }
  call->kernels->multiply(
      op, static_cast<int32_t>(all.first + 2 * split(pairs, call->tile_parts, tile)),
      static_cast<int32_t>(
          std::min(all.first + 2 * split(pairs, call->tile_parts, tile + 1), all.last)),
      static_cast<int32_t>(split(op->blocks, call->block_parts, block)),
      static_cast<int32_t>(split(op->blocks, call->block_parts, block + 1)), scratch);
}

// Y for a run of tiles, whose X is scaled alike.
bool run_tiles(const MatMulKernels* kernels, MatMul op, Span tiles, ParallelFor parallel,
               void* context) {
  const PackedWeight* w = op.weight;
  const int32_t digits = op.int8 || !kernels->float_digits ? 0 : kernels->float_digits(&op);
  op.digits = digits ? digits : 1;
  op.int8 |= digits > 0;
  op.offset = kernels->offset(&op);
  const int32_t block_rows = kernels->block_rows / op.digits;
  op.blocks = static_cast<int32_t>((op.rows + block_rows - 1) / block_rows);
  int64_t largest = (op.rows + op.blocks - 1) / op.blocks * op.digits;
  op.block_stride = block_bytes(w, op.int8, largest);
  op.acts = thread_scratch(Scratch::kActivations, op.block_stride * op.blocks);
  if (op.acts == nullptr) return false;

  std::atomic<bool> starved{false};
  Call call{kernels, &op, tiles, 1, 1, &starved};
  int64_t steps = kQuantizeSteps + (has_prologue(&op.prologue) ? kPrologueSteps : 0);
  if (op.rows * w->k * steps < kWorthAThread) {
    prepare(&call, 0);
  } else {
    call.block_parts = static_cast<int32_t>(std::min<int64_t>(op.blocks, kMaxTasks));
    parallel(context, prepare, &call, call.block_parts);
  }
  if (starved.load()) return false;

  int64_t work = work_of(&op, tiles.last - tiles.first);
  // A multiple of four, so that few threads all get as many.
  int64_t tasks = std::min<int64_t>(round_up(work / (kWorthAThread / 2), 4), kMaxTasks);
  if (work < kWorthAThread) tasks = 1;
  int64_t bytes = op.block_stride * op.blocks;
  int64_t fewest = std::min<int64_t>(op.blocks, (bytes + kActBytes - 1) / kActBytes);
  call.tile_parts = static_cast<int32_t>(
      std::min(pairs_of(tiles), std::max<int64_t>(tasks / fewest, 1)));
  call.block_parts = static_cast<int32_t>(
      std::min<int64_t>(op.blocks, std::max(fewest, tasks / call.tile_parts)));
  int64_t count = static_cast<int64_t>(call.tile_parts) * call.block_parts;
  if (count == 1) {
    multiply(&call, 0);
  } else {
    parallel(context, multiply, &call, count);
  }
  return !starved.load();
}

// Blocks of tiles, each with input scales of its own.
struct ScaledCall {
  const MatMulKernels* kernels;
  const MatMul* op;
  ParallelFor parallel;  // of each block
  void* context;
  std::atomic<bool> starved;

  int64_t blocks() const { return (op->weight->tiles + op->scaled_tiles - 1) / op->scaled_tiles; }
};

void in_turn(void*, void (*fn)(void*, size_t), void* data, size_t count) {
  for (size_t i = 0; i < count; i++) fn(data, i);
}

void run_scaled(void* data, size_t index) {
  ScaledCall* call = static_cast<ScaledCall*>(data);
  MatMul op = *call->op;
  const auto block = static_cast<int64_t>(index);
  op.prologue.scales = op.input_scales + block * op.weight->k;
  const Span tiles = {block * op.scaled_tiles,
                      std::min<int64_t>((block + 1) * op.scaled_tiles, op.weight->tiles)};
  if (!run_tiles(call->kernels, op, tiles, call->parallel, call->context))
    call->starved.store(true);
}

}  // namespace

bool run_matmul(const MatMulKernels* kernels, MatMul op, ParallelFor parallel, void* context) {
  if (op.rows == 0) return true;
  const int32_t tiles = op.weight->tiles;
  const bool several = op.input_scales && op.scaled_tiles < tiles;
  op.skips = op.prologue.skip.norms && op.prologue.skip.keep < 1;
  if (!op.skips) op.prologue.skip = {};
  // For those who read the same rows, and where their columns are scored before they are scaled.
  const bool kept = op.low_rank.rank || several || (op.skips && op.input_scales);
  if (kept && !keep_prepared_rows(kernels, &op, parallel, context)) return false;
  if (op.low_rank.rank && !project_rows(kernels, &op, parallel, context)) return false;
  if (!several) {
    op.prologue.scales = op.input_scales;
    return run_tiles(kernels, op, {0, tiles}, parallel, context);
  }
  // Small blocks are shared out whole, each large one among all threads.
  const bool whole = work_of(&op, op.scaled_tiles) < kWorthAThread &&
                     work_of(&op, tiles) >= kWorthAThread;
  ScaledCall call{kernels, &op, whole ? in_turn : parallel, whole ? nullptr : context, {false}};
  (whole ? parallel : in_turn)(context, run_scaled, &call, static_cast<size_t>(call.blocks()));
  return !call.starved.load();
}

}  // namespace bitfold
