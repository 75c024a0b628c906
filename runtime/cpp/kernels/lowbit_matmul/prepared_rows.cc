// What is made of X once, before it is quantized: the prologue's rows, where several read them,
// and the low-rank branch's products.

#include "prepared_rows.h"

#include <algorithm>
#include <atomic>

#include "../scratch.h"
#include "skip_columns.h"

namespace bitfold {
namespace {

constexpr int64_t kMostTasks = 32;
// Work of this many bytes read, or two multiply-adds, is worth a task of its own.
constexpr int64_t kWorthATask = 192 << 10;
// Rows of a task stay in a core's L2 while D's pass by; ranks are multiplied a few at a time.
constexpr int64_t kRowsOfATask = 24, kRanksOfATask = 8;
// A weight of this many bytes drives all else out of a core's own cache.
constexpr int64_t kLargeWeight = 1 << 20;

struct Call {
  const MatMulKernels* kernels;
  const MatMul* op;
  float* prepared;  // [M][k]
  int64_t row_parts, rank_parts;
  std::atomic<bool> starved;  // a thread found no memory
};

Span part_of_all(int64_t total, int64_t unit, int64_t parts, int64_t index) {
  const int64_t units = (total + unit - 1) / unit;
  return {std::min(total, units * index / parts * unit),
          std::min(total, units * (index + 1) / parts * unit)};
}

void prepare_part(void* data, size_t index) {
  Call* call = static_cast<Call*>(data);
  const MatMul* op = call->op;
  const int64_t k = op->weight->k;
  auto* scratch = reinterpret_cast<float*>(thread_scratch(
      Scratch::kPrologue, (prologue_scratch(&op->prologue) + kLine) * sizeof(float)));
  if (scratch == nullptr) {
    call->starved.store(true);
    return;
  }
  const Span rows = part_of_all(op->rows, 1, call->row_parts, index);
  for (int64_t row = rows.first; row < rows.last; row++)
    if (!prepare_whole_row(call->kernels->prepare_row, &op->prologue, op->x + row * k,
                           call->prepared + row * k, k, scratch))
      return call->starved.store(true);
}

void project_part(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const MatMul* op = call->op;
  const auto part = static_cast<int64_t>(index);
  call->kernels->project(
      &op->low_rank, op->x, op->weight->k,
      part_of_all(op->rows, kRowsOfATask, call->row_parts, part / call->rank_parts),
      part_of_all(op->low_rank.rank, kRanksOfATask, call->rank_parts, part % call->rank_parts));
}

// Calls `fn` for every part: on this thread where there is one.
void run(Call* call, void (*fn)(void*, size_t), ParallelFor parallel, void* context) {
  const int64_t parts = call->row_parts * call->rank_parts;
  if (parts == 1) return fn(call, 0);
  parallel(context, fn, call, static_cast<size_t>(parts));
}

int64_t tasks_of(int64_t work) { return std::clamp<int64_t>(work / kWorthATask, 1, kMostTasks); }

}  // namespace

bool keep_prepared_rows(const MatMulKernels* kernels, MatMul* op, ParallelFor parallel,
                        void* context) {
  if (!has_prologue(&op->prologue)) return true;
  const int64_t k = op->weight->k;
  auto* prepared = reinterpret_cast<float*>(
      thread_scratch(Scratch::kPrepared, op->rows * k * sizeof(float)));
  if (prepared == nullptr) return false;
  Call call{kernels, op, prepared, std::min(op->rows, tasks_of(4 * op->rows * k)), 1, {false}};
  run(&call, prepare_part, parallel, context);
  op->x = prepared;
  op->prologue = {};
  return !call.starved.load();
}

bool project_rows(const MatMulKernels* kernels, MatMul* op, ParallelFor parallel, void* context) {
  LowRank* branch = &op->low_rank;
  branch->rows = reinterpret_cast<float*>(
      thread_scratch(Scratch::kProjected, op->rows * branch->rank * sizeof(float)));
  if (branch->rows == nullptr) return false;
  branch->far = op->streamed || op->weight->tiles * tile_bytes(op->weight) > kLargeWeight;
  const int64_t numbers = branch->rank * op->weight->k;
  const int64_t bytes = numbers * (branch->half ? 2 : 4);
  const int64_t tasks = tasks_of(std::max(bytes, numbers * op->rows / 2));
  Call call{kernels, op, nullptr, 1, 1, {false}};
  call.row_parts = std::min(tasks, (op->rows + kRowsOfATask - 1) / kRowsOfATask);
  call.rank_parts = std::min<int64_t>(tasks / call.row_parts,
                                      (branch->rank + kRanksOfATask - 1) / kRanksOfATask);
  run(&call, project_part, parallel, context);
  return true;
}

}  // namespace bitfold
