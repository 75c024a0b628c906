// The driver: which way a convolution goes, and how its work is shared out over threads.
//
// How it is cut depends on shapes alone, never on the number of threads.

#include "lowbit_conv.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "../scratch.h"

namespace bitfold {
namespace {

// Work below this many byte-sized steps is done by the calling thread, as in lowbit_matmul.cc.
constexpr int64_t kWorthAThread = 384 << 10;
constexpr int64_t kMaxTasks = 32;
// Inputs that a thread should quantize at least.
constexpr int64_t kWorthQuantizing = 48 << 10;
// Quantized pixels of a pass over several images: they should stay in the last cache.
constexpr int64_t kPassBytes = 8 << 20;
// Quantized pixels that a task reads: they should stay in a core's L2.
constexpr int64_t kTaskBytes = 256 << 10;
// Fewer windows a task would not be worth decoding the weight for.
constexpr int64_t kFewestWindows = 192;
// Windows go over the kernels in multiples of this; pixels are quantized in multiples of kPixelUnit.
constexpr int64_t kWindowUnit = 48, kPixelUnit = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t split(int64_t total, int64_t parts, int64_t index) { return total * index / parts; }

// How many tasks some work is to become: a power of two, so that few threads all get as many.
int64_t tasks_of(int64_t work, int64_t each) {
  int64_t tasks = 1;
  while (2 * tasks <= std::min(work / each, kMaxTasks)) tasks *= 2;
  return tasks;
}

struct Call {
  const ConvKernels* kernels;
  const MatMulKernels* matmul;
  const Conv* conv;
  std::atomic<bool>* starved;  // a thread found no memory
  // A pass: these images; their quantized pixels, one set for each image and conv group.
  int64_t image0, images;
  uint8_t* pixels;
  int64_t pixel_bytes;
  int64_t window_unit, window_parts, tile_parts;  // of an image's conv group
  int64_t task_parts;                // what a loop over something else is cut into

  int64_t sets() const { return images * conv->groups; }
};

void run(ParallelFor parallel, void* context, void (*fn)(void*, size_t), Call* call,
         int64_t count) {
  if (count == 1) {
    fn(call, 0);
  } else {
    parallel(context, fn, call, static_cast<size_t>(count));
  }
}

uint8_t* scratch_or_starve(const Call* call, Scratch which, int64_t size) {
  uint8_t* data = thread_scratch(which, static_cast<size_t>(size));
  if (data == nullptr) call->starved->store(true);
  return data;
}

// The part of the weight that belongs to one conv group.
PackedWeight bank_of(const Conv* c, int64_t group) {
  PackedWeight w = *c->weight;
  w.tiles = static_cast<int32_t>(w.tiles / c->groups);
  const int64_t tile = group * w.tiles, scales = tile * w.groups * kTile;
  w.packed += tile * tile_bytes(&w);
  w.scales = static_cast<const uint8_t*>(w.scales) + scales * scale_bytes(&w);
  if (w.zero_points) w.zero_points += scales;
  return w;
}

int64_t pixel_stride(const Conv* c) { return round_up(conv_depth(c), 16); }

// Weight groups of a tap.
int64_t parts_of(const Conv* c) { return c->weight->groups / conv_taps(c); }

// Bytes of `count` quantized pixels and the one that is zeros.
int64_t pixels_bytes(const Conv* c, int64_t count) {
  const int64_t rows = count + 1;
  return round_up(rows * pixel_stride(c), 64) + 3 * round_up(rows * parts_of(c) * 4, 64);
}

Pixels pixels_at(const Call* call, uint8_t* at, int64_t count) {
  const Conv* c = call->conv;
  Pixels p;
  p.count = count;
  p.stride = pixel_stride(c);
  p.parts = static_cast<int32_t>(parts_of(c));
  p.offset = call->kernels->offset(c->weight);
  const int64_t values = round_up((p.count + 1) * p.parts * 4, 64);
  p.q = reinterpret_cast<int8_t*>(at);
  at += round_up((p.count + 1) * p.stride, 64);
  p.scale = reinterpret_cast<float*>(at);
  p.start = reinterpret_cast<int32_t*>(at + values);
  p.sum = reinterpret_cast<float*>(at + 2 * values);
  return p;
}

Pixels pixels_of(const Call* call, int64_t set) {
  return pixels_at(call, call->pixels + set * call->pixel_bytes, conv_pixels(call->conv));
}

void quantize(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Conv* c = call->conv;
  const int64_t set = static_cast<int64_t>(index) / call->task_parts;
  const int64_t part = static_cast<int64_t>(index) % call->task_parts;
  const Pixels p = pixels_of(call, set);
  const int64_t blocks = ceil_div(p.count, 64);
  const int64_t first = split(blocks, call->task_parts, part) * 64;
  const int64_t last = std::min(split(blocks, call->task_parts, part + 1) * 64, p.count);
  const float* x = c->x + (call->image0 * c->groups + set) * conv_depth(c) * p.count;
  call->kernels->quantize(c, x, &p, first, last);
  if (part + 1 < call->task_parts) return;
  std::fill_n(p.q + p.count * p.stride, p.stride, int8_t{0});
  for (int32_t i = 0; i < p.parts; i++) {
    const int64_t at = i * (p.count + 1) + p.count;
    p.scale[at] = p.sum[at] = 0;
    p.start[at] = 0;
  }
}

// The pixel under each tap of the windows [first, first + count): [taps][count].
void find_pixels(const Conv* c, int64_t first, int64_t count, int32_t* index) {
  const auto outside = static_cast<int32_t>(conv_pixels(c));
  const int64_t step = c->stride[1];
  for (int64_t ky = 0; ky < c->kernel[0]; ky++)
    for (int64_t kx = 0; kx < c->kernel[1]; kx++) {
      int64_t oy = first / c->out[1], ox = first % c->out[1], left = count;
      for (; left > 0; oy++, ox = 0) {  // a row of windows, of which some lie inside
        const int64_t windows = std::min(c->out[1] - ox, left);
        const int64_t y = oy * c->stride[0] + ky * c->dilation[0] - c->pad[0];
        const int64_t x = ox * step + kx * c->dilation[1] - c->pad[1];
        int64_t begin = 0, end = 0;
        if (y >= 0 && y < c->size[0]) {
          begin = std::min(x < 0 ? ceil_div(-x, step) : 0, windows);
          end = x < c->size[1] ? ceil_div(c->size[1] - x, step) : 0;
          end = std::clamp(end, begin, windows);
        }
        std::fill(index, index + begin, outside);
        const auto from = static_cast<int32_t>(y * c->size[1] + x);
        for (int64_t i = begin; i < end; i++) index[i] = from + static_cast<int32_t>(i * step);
        std::fill(index + end, index + windows, outside);
        index += windows;
        left -= windows;
      }
    }
}

// What a task over windows and tiles is to do.
struct Task {
  int64_t set, group, first, count;  // windows
  PackedWeight bank;
  Windows windows;

  Task(const Call* call, size_t index) {
    const Conv* c = call->conv;
    const int64_t part = static_cast<int64_t>(index);
    const int64_t tile = part % call->tile_parts, rest = part / call->tile_parts;
    const int64_t window = rest % call->window_parts, total = conv_windows(c);
    const int64_t units = ceil_div(total, call->window_unit);
    set = rest / call->window_parts;
    group = set % c->groups;
    first = split(units, call->window_parts, window) * call->window_unit;
    count = split(units, call->window_parts, window + 1) * call->window_unit;
    count = std::min(count, total) - first;
    bank = bank_of(c, group);
    const int64_t pairs = ceil_div(bank.tiles, 2);
    windows = {};
    windows.conv = c;
    windows.weight = &bank;
    windows.bias = c->bias ? c->bias + group * bank.n : nullptr;
    windows.count = count;
    windows.tile0 = static_cast<int32_t>(2 * split(pairs, call->tile_parts, tile));
    windows.tile1 = static_cast<int32_t>(
        std::min<int64_t>(2 * split(pairs, call->tile_parts, tile + 1), bank.tiles));
    const int64_t place = (call->image0 * c->groups + set) * bank.n * total + first;
    windows.y = c->y + place;
    windows.residual = c->residual ? c->residual + place : nullptr;
  }
  Task(const Task&) = delete;  // windows points at bank
};

void multiply(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Conv* c = call->conv;
  Task task(call, index);
  const int64_t list = round_up(conv_taps(c) * task.count * 4, 64);
  uint8_t* scratch =
      scratch_or_starve(call, Scratch::kPanel, list + call->kernels->scratch(c->weight));
  if (scratch == nullptr) return;
  auto* found = reinterpret_cast<int32_t*>(scratch);
  find_pixels(c, task.first, task.count, found);
  const Pixels pixels = pixels_of(call, task.set);
  task.windows.pixels = &pixels;
  task.windows.index = found;
  call->kernels->multiply(&task.windows, scratch + list);
}

// Cut the windows and tiles of an image's conv group so that there are about enough tasks.
void cut(Call* call, int64_t most_windows) {
  const Conv* c = call->conv;
  const int64_t windows = conv_windows(c), tiles = c->weight->tiles / c->groups;
  const int64_t work = std::max<int64_t>(tile_bytes(c->weight) * tiles,
                                         windows * c->weight->k * tiles * kTile / 8);
  const int64_t wanted = tasks_of(work * call->sets(), kWorthAThread / 2);
  const int64_t each = ceil_div(wanted, call->sets());
  const int64_t units = ceil_div(windows, kWindowUnit);
  call->window_parts = std::max(ceil_div(windows, most_windows),
                                std::min(each, windows / kFewestWindows));
  call->window_parts = std::clamp<int64_t>(call->window_parts, 1, units);
  call->tile_parts =
      std::clamp<int64_t>(each / call->window_parts, 1, ceil_div(tiles, 2));
  call->window_unit = kWindowUnit;
}

// Quantize a task's own pixels and multiply them, while they are near.
void pointwise(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Conv* c = call->conv;
  Task task(call, index);
  const int64_t list = round_up(task.count * 4, 64);
  uint8_t* near = scratch_or_starve(call, Scratch::kActivations, pixels_bytes(c, task.count));
  uint8_t* scratch =
      scratch_or_starve(call, Scratch::kPanel, list + call->kernels->scratch(c->weight));
  if (near == nullptr || scratch == nullptr) return;
  const Pixels pixels = pixels_at(call, near, task.count);
  const int64_t channel = (call->image0 * c->groups + task.set) * conv_depth(c);
  call->kernels->quantize(c, c->x + channel * conv_pixels(c) + task.first, &pixels, 0,
                          task.count);
  auto* found = reinterpret_cast<int32_t*>(scratch);
  std::iota(found, found + task.count, 0);
  task.windows.pixels = &pixels;
  task.windows.index = found;
  call->kernels->multiply(&task.windows, scratch + list);
}

// Cut a pointwise convolution by windows alone.  False where too few tasks came of it, or each
// would have to fetch a large weight anew: quantizing apart is better then.
bool cut_pointwise(Call* call) {
  const Conv* c = call->conv;
  const int64_t windows = conv_windows(c), bytes = tile_bytes(c->weight) * c->weight->tiles;
  call->images = c->images;
  call->tile_parts = 1;
  const int64_t work = (windows * c->weight->k / 8 + windows) * c->weight->tiles * kTile * c->images;
  const int64_t wanted = tasks_of(work, kWorthAThread / 2);
  const int64_t each = ceil_div(wanted, call->sets());
  const int64_t most_windows = std::max(kTaskBytes / pixel_stride(c), kWindowUnit);
  call->window_parts = std::max(ceil_div(windows, most_windows),
                                std::min(each, windows / kWindowUnit));
  call->window_parts =
      std::clamp<int64_t>(call->window_parts, 1, ceil_div(windows, kPixelUnit));
  call->window_unit = kPixelUnit;
  const int64_t tasks = call->sets() * call->window_parts;
  return tasks >= std::min<int64_t>(wanted, 4) && (tasks == 1 || bytes / c->groups <= kTaskBytes);
}

bool run_pointwise(Call* call, ParallelFor parallel, void* context) {
  run(parallel, context, pointwise, call, call->sets() * call->window_parts);
  return !call->starved->load();
}

bool run_int8(Call* call, ParallelFor parallel, void* context) {
  const Conv* c = call->conv;
  if (conv_is_pointwise(c) && cut_pointwise(call)) return run_pointwise(call, parallel, context);
  call->pixel_bytes = pixels_bytes(c, conv_pixels(c));
  const int64_t image_bytes = call->pixel_bytes * c->groups;
  const int64_t at_once = std::clamp<int64_t>(kPassBytes / image_bytes, 1, c->images);
  call->pixels = thread_scratch(Scratch::kActivations, static_cast<size_t>(at_once * image_bytes));
  if (call->pixels == nullptr) return false;
  const int64_t window_bytes = pixel_stride(c) * c->stride[0] * c->stride[1];
  const int64_t most_windows = std::max(kTaskBytes / window_bytes, kFewestWindows);
  for (call->image0 = 0; call->image0 < c->images; call->image0 += at_once) {
    call->images = std::min(at_once, c->images - call->image0);
    const int64_t inputs = conv_pixels(c) * pixel_stride(c);
    const int64_t wanted = tasks_of(inputs * call->sets(), kWorthQuantizing);
    call->task_parts =
        std::clamp<int64_t>(ceil_div(wanted, call->sets()), 1, ceil_div(conv_pixels(c), 64));
    run(parallel, context, quantize, call, call->sets() * call->task_parts);
    cut(call, most_windows);
    run(parallel, context, multiply, call,
        call->sets() * call->window_parts * call->tile_parts);
    if (call->starved->load()) return false;
  }
  return true;
}

// Windows that are gathered at a time for float activations, and floats of a gathered window.
constexpr int64_t kGatherBytes = 256 << 10;

int64_t gathered_at_once(const Conv* c) {
  return std::clamp<int64_t>(kGatherBytes / (c->weight->k * 4), 12, kWindowUnit);
}

// Rows [count][k] of the windows from `first`, whose pixels are in `index` [taps][count].
void gather(const Conv* c, const float* x, const int32_t* index, int64_t count, float* rows) {
  const int64_t pixels = conv_pixels(c), depth = conv_depth(c), k = c->weight->k;
  const int64_t padded = k / conv_taps(c);
  for (int64_t tap = 0; tap < conv_taps(c); tap++, index += count)
    for (int64_t i = 0; i < count; i++) {
      float* row = rows + i * k + tap * padded;
      const float* from = x + index[i];
      int64_t channel = 0;
      if (index[i] < pixels)
        for (; channel < depth; channel++) row[channel] = from[channel * pixels];
      for (; channel < padded; channel++) row[channel] = 0;
    }
}

void in_turn(void*, void (*fn)(void*, size_t), void* data, size_t count) {
  for (size_t i = 0; i < count; i++) fn(data, i);
}

void multiply_float(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Conv* c = call->conv;
  Task task(call, index);
  const int64_t most = gathered_at_once(c), n = task.bank.n, k = task.bank.k;
  const int64_t list = round_up(conv_taps(c) * most * 4, 64);
  const int64_t gathered = round_up(most * k * 4, 64);
  uint8_t* scratch = scratch_or_starve(call, Scratch::kRows,
                                       list + gathered + (most * n + kTile) * 4);
  if (scratch == nullptr) return;
  auto* found = reinterpret_cast<int32_t*>(scratch);
  auto* rows = reinterpret_cast<float*>(scratch + list);
  auto* sums = reinterpret_cast<float*>(scratch + list + gathered);
  const float* x =
      c->x + (call->image0 * c->groups + task.set) * conv_depth(c) * conv_pixels(c);
  for (int64_t done = 0; done < task.count; done += most) {
    const int64_t count = std::min(most, task.count - done);
    find_pixels(c, task.first + done, count, found);
    gather(c, x, found, count, rows);
    const Part whole = {sums, 0, n};
    MatMul op{};
    op.weight = &task.bank;
    op.act_group_size = k;
    op.rows = count;
    op.x = rows;
    op.parts = &whole;
    op.part_count = 1;
    op.columns = n;
    if (!run_matmul(call->matmul, op, in_turn, nullptr)) {
      call->starved->store(true);
      return;
    }
    Windows part = task.windows;
    part.count = count;
    part.y += done;
    if (part.residual) part.residual += done;
    for (int64_t first = 0; first < n; first += kTile)
      call->kernels->store(&part, sums + first, n, first);
  }
}

bool run_float(Call* call, ParallelFor parallel, void* context) {
  const Conv* c = call->conv;
  call->images = c->images;
  cut(call, std::max(kFewestWindows, kTaskBytes / (pixel_stride(c) * 4)));
  call->tile_parts = 1;  // every task gathers its own windows
  run(parallel, context, multiply_float, call, call->sets() * call->window_parts);
  return !call->starved->load();
}

void depthwise(void* data, size_t index) {
  const Call* call = static_cast<const Call*>(data);
  const Conv* c = call->conv;
  const int64_t image = static_cast<int64_t>(index) / call->task_parts;
  const int64_t part = static_cast<int64_t>(index) % call->task_parts;
  uint8_t* scratch =
      scratch_or_starve(call, Scratch::kPanel, call->kernels->depthwise_scratch(c));
  if (scratch == nullptr) return;
  call->kernels->depthwise(c, image, split(c->outputs, call->task_parts, part),
                           split(c->outputs, call->task_parts, part + 1), scratch);
}

bool run_depthwise(Call* call, ParallelFor parallel, void* context) {
  const Conv* c = call->conv;
  const int64_t work = c->outputs * (conv_windows(c) * conv_taps(c) + conv_pixels(c));
  const int64_t wanted = tasks_of(work * c->images, kWorthAThread / 4);
  call->task_parts = std::min(ceil_div(wanted, c->images), c->outputs);
  run(parallel, context, depthwise, call, c->images * call->task_parts);
  return !call->starved->load();
}

}  // namespace

bool run_conv(const ConvKernels* kernels, const MatMulKernels* matmul, const Conv& conv,
              ParallelFor parallel, void* context) {
  if (conv.images == 0 || conv_windows(&conv) == 0) return true;
  std::atomic<bool> starved{false};
  Call call{kernels, matmul, &conv, &starved, 0, 0, nullptr, 0, 1, 1, 1, 1};
  if (conv_depth(&conv) == 1) return run_depthwise(&call, parallel, context);
  return conv.int8 ? run_int8(&call, parallel, context) : run_float(&call, parallel, context);
}

}  // namespace bitfold
