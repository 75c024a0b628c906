// The driver: append to the caches, then share out blocks of rows, or chunks of keys, over threads.
//
// How work is cut never depends on the number of threads, and each sum has one order: neither do
// results.

#include "fused_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "../scratch.h"

namespace bitfold {
namespace {

// Floats of keys and values gone over (by several rows at a time) that make a task worth another
// thread.
constexpr int64_t kWorthAThread = 96 << 10;
// The same of few rows, whose keys and values come from memory at each token.
constexpr int64_t kFewRowsWorthAThread = 16 << 10;
constexpr int64_t kRowsAtATime = 8;
// With this many K/V heads, over the batch, each is a task of its own.
constexpr int64_t kManyHeads = 32;
constexpr int64_t kMaxTasks = 128;

struct Call {
  const AttentionKernels* kernels;
  const Attention* a;
  float* packed;         // of each K/V head of each batch entry, or null
  int64_t chunks, blocks;  // of the longest batch entry; of each K/V head
  int64_t blocks_a_task;
  SoftmaxState* states;         // [B][Hkv][chunks]
  std::atomic<bool>* starved;  // a thread found no memory
};

int64_t ceil_div(int64_t total, int64_t each) { return (total + each - 1) / each; }

float* scratch_of(const Call* call, int64_t floats) {
  uint8_t* scratch = thread_scratch(Scratch::kPanel, floats * sizeof(float));
  if (scratch == nullptr) call->starved->store(true);
  return reinterpret_cast<float*>(scratch);
}

QueryBlock block_at(const Call* call, int64_t b, int64_t kv, int64_t index) {
  const int64_t rows = rows_of(call->a);
  const int64_t first = rows * index / call->blocks, last = rows * (index + 1) / call->blocks;
  return {b, kv, first, static_cast<int32_t>(last - first)};
}

// Slots from `start` on: the new keys or values, then what the past has there, then zeros.
void append_rows(const Call* call, int64_t b, int64_t kv, const float* past, const float* added,
                 int64_t added_stride, bool rotated, float* present) {
  const Attention* a = call->a;
  const int64_t entry = b * a->kv_heads + kv, head = a->head, start = start_of(a, b);
  present += entry * a->present * head;
  if (past) past += entry * a->past * head;
  const size_t row = head * sizeof(float);
  const int64_t end = start + a->added;
  if (past && past != present) {
    std::memcpy(present, past, start * row);
    if (a->past > end) std::memcpy(present + end * head, past + end * head, (a->past - end) * row);
  }
  const int64_t filled = std::max(past ? a->past : 0, end);
  std::memset(present + filled * head, 0, (a->present - filled) * row);
  added += b * a->added * added_stride + kv * head;
  for (int64_t i = 0; i < a->added; i++, added += added_stride) {
    float* to = present + (start + i) * head;
    const int64_t angles = (start + i) * (head / 2);
    if (rotated) {
      call->kernels->rotate(added, a->cos + angles, a->sin + angles, head, a->interleaved, to);
    } else {
      std::memcpy(to, added, row);
    }
  }
}

void append(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Attention* a = call->a;
  const int64_t b = index / a->kv_heads, kv = index % a->kv_heads;
  append_rows(call, b, kv, a->past_key, a->key, a->key_stride, a->cos != nullptr, a->present_key);
  append_rows(call, b, kv, a->past_value, a->value, a->value_stride, false, a->present_value);
}

// Blocks `first` to `last` of one K/V head of one batch entry.
void attend_all(const Call* call, int64_t b, int64_t kv, int64_t first, int64_t last,
                const float* packed, float* scratch) {
  for (int64_t i = first; i < last; i += kBlocksAtOnce) {
    QueryBlock blocks[kBlocksAtOnce];
    const int64_t count = std::min<int64_t>(kBlocksAtOnce, last - i);
    for (int64_t each = 0; each < count; each++) blocks[each] = block_at(call, b, kv, i + each);
    call->kernels->attend(call->a, blocks, count, packed, scratch);
  }
}

// One K/V head of one batch entry, packed and gone over by one thread.
void attend_head(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Attention* a = call->a;
  const int64_t b = index / a->kv_heads, kv = index % a->kv_heads;
  const int64_t packed_floats = call->kernels->packed_floats(a);
  float* packed = scratch_of(call, packed_floats + call->kernels->scratch_floats(a));
  if (packed == nullptr) return;
  call->kernels->pack(a, b, kv, 0, keys_of(a, b), packed);
  attend_all(call, b, kv, 0, call->blocks, packed, packed + packed_floats);
}

void pack_chunk(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Attention* a = call->a;
  const int64_t entry = index / call->chunks, first = index % call->chunks * kChunkKeys;
  const int64_t b = entry / a->kv_heads;
  const int64_t last = std::min<int64_t>(first + kChunkKeys, keys_of(a, b));
  if (first >= last) return;
  call->kernels->pack(a, b, entry % a->kv_heads, first, last,
                      call->packed + entry * call->kernels->packed_floats(a));
}

// A few blocks of one K/V head of one batch entry.
void attend_blocks(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Attention* a = call->a;
  const int64_t tasks = ceil_div(call->blocks, call->blocks_a_task);
  const int64_t entry = index / tasks;
  // The last queries first: they see the most keys.
  const int64_t task = tasks - 1 - index % tasks;
  float* scratch = scratch_of(call, call->kernels->scratch_floats(a));
  if (scratch == nullptr) return;
  attend_all(call, entry / a->kv_heads, entry % a->kv_heads, task * call->blocks_a_task,
             std::min(call->blocks, (task + 1) * call->blocks_a_task),
             call->packed + entry * call->kernels->packed_floats(a), scratch);
}

void attend_few(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Attention* a = call->a;
  const int64_t entry = index / call->chunks;
  const QueryBlock block = {entry / a->kv_heads, entry % a->kv_heads, 0,
                       static_cast<int32_t>(rows_of(a))};
  float* scratch = scratch_of(call, call->kernels->scratch_floats(a));
  if (scratch == nullptr) return;
  call->kernels->attend_chunk(a, &block, index % call->chunks, call->states + index, scratch);
}

// Put together what the chunks of keys gave, in their order.
void combine(const Call* call, int64_t b, int64_t kv) {
  const Attention* a = call->a;
  const SoftmaxState* states = call->states + (b * a->kv_heads + kv) * call->chunks;
  for (int64_t r = 0; r < rows_of(a); r++) {
    float most = -INFINITY;
    for (int64_t c = 0; c < call->chunks; c++) most = std::max(most, states[c].most[r]);
    if (most == -INFINITY) most = 0;
    float* y = output_at(a, b, r / group_of(a), kv * group_of(a) + r % group_of(a));
    float sum = 0, mixed[kMaxHead] = {};
    for (int64_t c = 0; c < call->chunks; c++) {
      const float factor = std::exp(states[c].most[r] - most);
      sum += states[c].sum[r] * factor;
      for (int64_t d = 0; d < a->head; d++) mixed[d] += states[c].mixed[r][d] * factor;
    }
    const float inverse = sum == 0 ? 0 : 1 / sum;
    for (int64_t d = 0; d < a->head; d++) y[d] = mixed[d] * inverse;
  }
}

void run(ParallelFor parallel, void* context, void (*fn)(void*, size_t), Call* call,
         int64_t count, bool alone) {
  if (alone || count == 1) {
    for (int64_t i = 0; i < count; i++) fn(call, i);
  } else {
    parallel(context, fn, call, count);
  }
}

}  // namespace

bool run_attention(const AttentionKernels* kernels, const Attention& a, ParallelFor parallel,
                   void* context) {
  std::atomic<bool> starved{false};
  Call call{kernels, &a, nullptr, 0, 0, 1, nullptr, &starved};
  const int64_t rows = rows_of(&a), entries = a.batch * a.kv_heads;
  if (a.present_key && entries) {
    const bool in_place = a.present_key == a.past_key && a.present_value == a.past_value;
    const int64_t floats = entries * (in_place ? a.added : a.present) * a.head;
    run(parallel, context, append, &call, entries, floats < kWorthAThread);
  }
  int64_t most_keys = 0;
  for (int64_t b = 0; b < a.batch; b++) most_keys = std::max(most_keys, keys_of(&a, b));
  if (rows == 0 || entries == 0) return true;
  const int64_t work = entries * most_keys * a.head * ceil_div(rows, kRowsAtATime);
  const bool few = rows <= kernels->few_rows;
  const bool alone = work < (few ? kFewRowsWorthAThread : kWorthAThread);
  call.chunks = std::max<int64_t>(ceil_div(most_keys, few ? kFewRowsKeys : kChunkKeys), 1);
  call.blocks = ceil_div(rows, kernels->block_rows);
  uint8_t* shared = nullptr;
  if (few) {
    const int64_t count = entries * call.chunks;
    shared = thread_scratch(Scratch::kActivations, count * sizeof(SoftmaxState));
    if (shared == nullptr) return false;
    call.states = reinterpret_cast<SoftmaxState*>(shared);
    run(parallel, context, attend_few, &call, count, alone);
    if (starved.load()) return false;
    for (int64_t i = 0; i < entries; i++) combine(&call, i / a.kv_heads, i % a.kv_heads);
    return true;
  }
  if (entries >= kManyHeads) {
    run(parallel, context, attend_head, &call, entries, alone);
    return !starved.load();
  }
  shared = thread_scratch(Scratch::kActivations,
                          entries * kernels->packed_floats(&a) * sizeof(float));
  if (shared == nullptr) return false;
  call.packed = reinterpret_cast<float*>(shared);
  run(parallel, context, pack_chunk, &call, entries * call.chunks,
      entries * most_keys * a.head < kWorthAThread);
  const int64_t tasks = std::max<int64_t>(kMaxTasks / entries, 1);
  call.blocks_a_task = ceil_div(ceil_div(call.blocks, tasks), kBlocksAtOnce) * kBlocksAtOnce;
  run(parallel, context, attend_blocks, &call,
      entries * ceil_div(call.blocks, call.blocks_a_task), alone);
  return !starved.load();
}

}  // namespace bitfold
