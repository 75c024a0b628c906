// The kernels on threads of our own, for the thread sanitizer: `bitfold_threads [rows...]`.
//
// Every case runs on one thread, then on two to eight, then from several callers at once; each
// answer must have the bits of the first.  Built where CMake is given BITFOLD_SANITIZE; the ISA is
// what BITFOLD_ISA names.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "lowbit_matmul/masked.h"

namespace {

using namespace bitfold;

int failures = 0;

// A ParallelFor on threads that live as long as the call; `context` is their number.
void parallel_for(void* context, void (*fn)(void*, size_t), void* data, size_t count) {
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) fn(data, i);
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < *static_cast<const int*>(context); i++) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

std::vector<float> floats(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// A random weight and the memory that it points into.
struct Weight {
  PackedWeight packed{};
  std::vector<uint8_t> bytes;
  std::vector<float> scales;
  std::vector<int8_t> zeros;
  std::vector<uint8_t> masks;  // of a masked weight
  std::vector<int64_t> first_lines;

  Weight(std::mt19937& random, int64_t n, int64_t k, int bits, int64_t group, int64_t tiles,
         bool zero_points, bool table, bool masked = false) {
    PackedWeight& w = packed;
    w.n = n;
    w.k = k;
    w.bits = bits;
    w.group_size = static_cast<int32_t>(group);
    w.groups = static_cast<int32_t>((k + group - 1) / group);
    w.tiles = static_cast<int32_t>(tiles);
    w.chunks = static_cast<int32_t>((k + kChunk - 1) / kChunk);
    w.has_table = table;
    w.offset = table ? 128 : 1 << (bits - 1);
    w.least = -w.offset;
    w.most = w.offset - 1;
    for (int c = 0; c < 256; c++)
      w.operand[c] = static_cast<uint8_t>(table && c < 1 << bits ? random() : c);
    bytes.resize(masked ? draw_masks(random) : tiles * tile_bytes(&w));
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    scales = floats(random, tiles * w.groups * kTile);
    zeros.resize(scales.size());
    for (int8_t& zero : zeros) zero = static_cast<int8_t>(random() % 15 - 7);
    w.packed = bytes.data();
    w.scales = scales.data();
    w.zero_points = zero_points ? zeros.data() : nullptr;
  }

  // Returns the bytes of the lines and their padding.
  int64_t draw_masks(std::mt19937& random) {
    masks.resize(packed.tiles * packed.chunks * kLine);
    for (uint8_t& mask : masks) mask = static_cast<uint8_t>(random());
    int64_t at = 0;
    for (int32_t i = 0; i < packed.tiles * packed.chunks; i++) {
      int lengths[8];
      line_lengths(packed.bits, masks.data() + i * kLine, lengths);
      if (i % packed.chunks == 0) first_lines.push_back(at);
      for (int line = 0; line < packed.bits; line++) at += lengths[line];
    }
    packed.masks = masks.data();
    packed.first_lines = first_lines.data();
    return at + kLine;
  }
};

// Run `call(threads, y)` on 1 to 8 threads and from several callers, and compare all outputs.
template <class Call>
void check(const std::string& name, size_t outputs, Call call) {
  std::vector<float> first(outputs), other(outputs);
  call(1, first.data());
  auto same = [&](const std::vector<float>& y, const std::string& how) {
    if (std::memcmp(y.data(), first.data(), outputs * sizeof(float)) == 0) return;
    std::printf("%s: other bits %s\n", name.c_str(), how.c_str());
    failures++;
  };
  for (int threads : {2, 3, 5, 8}) {
    other.assign(outputs, -1);
    call(threads, other.data());
    same(other, "on " + std::to_string(threads) + " threads");
  }
  std::vector<std::vector<float>> each(3, std::vector<float>(outputs));
  std::vector<std::thread> callers;
  for (std::vector<float>& y : each) callers.emplace_back([&] { call(2, y.data()); });
  for (std::thread& caller : callers) caller.join();
  for (const std::vector<float>& y : each) same(y, "from callers at once");
}

// What stands beside a weight and its activations.
struct Beside {
  int32_t rank = 0;          // of the low-rank branch; its rows are normed
  int32_t scaled_tiles = 0;  // that input scales are for
  float keep = 0;            // share of the columns that are not skipped; 0 for all
  bool masked = false;
};

// act_bits 0 stands for float activations.
void check_matmul(std::mt19937& random, int64_t m, int bits, int act_bits, Activation activation,
                  bool zero_points, bool table, const Beside& beside = {}) {
  const int32_t rank = beside.rank;
  const int64_t n = 496, k = 544, group = 32;
  const int64_t tiles = activation == kSwiGlu ? 2 * ((n / 2 + kTile - 1) / kTile) : n / kTile;
  const Weight weight(random, n, k, bits, group, tiles, zero_points, table, beside.masked);
  const std::vector<float> x = floats(random, m * k), bias = floats(random, n);
  const std::vector<float> scales = floats(random, tiles * k), norms(k, 0.5f);
  MatMul op{};
  op.weight = &weight.packed;
  op.masked = kernels()->masked;
  op.bias = bias.data();
  op.activation = activation;
  op.int8 = act_bits != 0;
  op.act_bits = act_bits;
  op.act_group_size = zero_points ? k : group;
  const std::vector<float> gain = floats(random, k), down = floats(random, rank * k);
  const std::vector<float> up = floats(random, tiles * rank * kTile);
  if (rank) {
    op.prologue.gain = gain.data();
    op.prologue.epsilon = 1e-5f;
    op.low_rank = {rank, false, down.data(), up.data(), nullptr, false};
  }
  if (beside.keep > 0) op.prologue.skip = {norms.data(), beside.keep};
  op.input_scales = beside.scaled_tiles ? scales.data() : nullptr;
  op.scaled_tiles = beside.scaled_tiles;
  op.rows = m;
  op.x = x.data();
  op.columns = activation == kSwiGlu ? n / 2 : n;
  const std::string name = "matmul M=" + std::to_string(m) + " " + std::to_string(bits) +
                           " bits, acts " + std::to_string(act_bits) + (zero_points ? " zeros" : "") +
                           (table ? " table" : "") + " activation " + std::to_string(activation) +
                           " rank " + std::to_string(rank) + " scaled " +
                           std::to_string(beside.scaled_tiles) + " keep " +
                           std::to_string(beside.keep) + (beside.masked ? " masked" : "");
  check(name, m * op.columns, [&](int threads, float* y) {
    MatMul own = op;
    const Part part{y, 0, op.columns};
    own.parts = &part;
    own.part_count = 1;
    const MatMulKernels chosen = kernels_for(kernels()->matmul, kernels()->planes, &own);
    if (!run_matmul(&chosen, own, parallel_for, &threads)) std::abort();
  });
}

void check_conv(std::mt19937& random, int64_t n, int64_t c, int64_t groups, int64_t window,
                int64_t size, bool int8) {
  const bool depthwise = c == groups;
  const int64_t taps = window * window, depth = c / groups;
  const int64_t padded = taps == 1 || depthwise ? depth : round_up(depth, 16);
  const int64_t banks = depthwise ? 1 : groups;
  const int64_t tiles = banks * ((n / banks + kTile - 1) / kTile);
  const Weight weight(random, n / banks, taps * padded, 4, depthwise ? taps : padded, tiles, true,
                      false);
  Conv conv{};
  conv.weight = &weight.packed;
  conv.least = 0;
  conv.most = 6;
  conv.scale = 1;
  conv.int8 = int8;
  conv.act_group_size = depth;
  conv.images = 3;
  conv.channels = c;
  conv.outputs = n;
  conv.groups = groups;
  for (int axis = 0; axis < 2; axis++) {
    conv.size[axis] = conv.out[axis] = size;
    conv.kernel[axis] = window;
    conv.stride[axis] = conv.dilation[axis] = 1;
    conv.pad[axis] = window / 2;
  }
  const std::vector<float> x = floats(random, conv.images * c * size * size);
  conv.x = x.data();
  const std::string name = "conv " + std::to_string(c) + "->" + std::to_string(n) + "/" +
                           std::to_string(groups) + " window " + std::to_string(window) +
                           (int8 ? "" : " float");
  check(name, conv.images * n * size * size, [&](int threads, float* y) {
    Conv own = conv;
    own.y = y;
    if (!run_conv(kernels()->conv, kernels()->matmul, own, parallel_for, &threads)) std::abort();
  });
}

}  // namespace

int main(int count, char** values) {
  if (kernels() == nullptr) {
    std::printf("%s\n", kernels_error());
    return 2;
  }
  std::vector<int64_t> rows;
  for (int i = 1; i < count; i++) rows.push_back(std::atoll(values[i]));
  if (rows.empty()) rows = {1, 2, 7, 13, 70};
  std::mt19937 random(0);
  for (int64_t m : rows)
    for (int bits = 1; bits <= 8; bits++) {
      check_matmul(random, m, bits, 8, kIdentity, false, bits % 2 == 0);
      check_matmul(random, m, bits, 8, bits % 2 ? kSwiGlu : kGelu, true, false);
      check_matmul(random, m, bits, 0, kRelu, bits % 2 == 0, false);
      for (int acts = 1; acts <= 4; acts++)
        check_matmul(random, m, bits, acts, bits % 2 ? kIdentity : kSwiGlu, acts % 2 == 0, false);
    }
  for (int64_t m : rows) {
    check_matmul(random, m, 4, 8, kIdentity, true, false, {33});
    check_matmul(random, m, 4, 8, kSwiGlu, false, false, {500});
    check_matmul(random, m, 2, 2, kRelu, false, false, {8});
    for (const bool masked : {false, true})
      for (const int acts : {8, 0}) {
        check_matmul(random, m, 4, acts, kIdentity, false, false, {0, 31, 0.4f, masked});
        check_matmul(random, m, 4, acts, kIdentity, true, false, {0, 2, 0, masked});
        check_matmul(random, m, 3, acts, kRelu, false, true, {9, 5, 0.25f, masked});
        check_matmul(random, m, 8, acts, kSwiGlu, true, false, {0, 0, 0.5f, masked});
      }
  }
  for (const bool int8 : {true, false}) {
    check_conv(random, 96, 64, 1, 3, 15, int8);
    check_conv(random, 96, 64, 2, 1, 24, int8);
    check_conv(random, 640, 256, 1, 1, 8, int8);
  }
  check_conv(random, 96, 96, 96, 3, 24, false);
  check_conv(random, 64, 64, 64, 5, 9, false);
  std::printf("%s: %d failures\n", kernels()->isa, failures);
  return failures ? 1 : 0;
}
