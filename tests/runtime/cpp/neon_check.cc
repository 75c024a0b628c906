// Compares the kernels that this process would use with the scalar reference, with no ORT: for
// machines that are emulated, whose Python and ORT are not at hand.
//
//   neon_check ISA      exits with 1 where the ISA is another, or a result differs
//
// Every array ends at a page that must not be touched.

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "kernels/dispatch.h"

namespace bitfold {
namespace {

// Largest error relative to the largest output, as tests/support/kernel_checks.py has it.
constexpr double kTolerance = 3e-6;

int cases = 0, failures = 0;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761 + 88172645463325252) {}
  uint32_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>(state_ >> 32);
  }
  int64_t below(int64_t count) { return next() % count; }
  // About normal.
  float value() {
    float sum = -6;
    for (int i = 0; i < 12; i++) sum += static_cast<float>(next()) * 0x1p-32f;
    return sum;
  }

 private:
  uint64_t state_;
};

// `count` elements that end where a page that must not be touched begins.
template <class T>
class Array {
 public:
  explicit Array(int64_t count) : count_(count) {
    const int64_t page = sysconf(_SC_PAGESIZE), bytes = count * static_cast<int64_t>(sizeof(T));
    const int64_t room = (bytes + page - 1) / page * page;
    size_ = room + page;
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(static_cast<char*>(memory) + room, page, PROT_NONE)) {
      perror("neon_check");
      _exit(2);
    }
    pages_ = memory;
    data = reinterpret_cast<T*>(static_cast<char*>(memory) + room - bytes);
  }
  Array(Array&& other) noexcept
      : data(other.data), count_(other.count_), size_(other.size_), pages_(other.pages_) {
    other.pages_ = nullptr;
  }
  Array(const Array&) = delete;
  ~Array() {
    if (pages_) munmap(pages_, size_);
  }
  T* begin() const { return data; }
  T* end() const { return data + count_; }

  T* data;

 private:
  int64_t count_;
  size_t size_;
  void* pages_;
};

Array<float> values(Random* random, int64_t count) {
  Array<float> array(count);
  for (float& each : array) each = random->value();
  return array;
}

// The options of a packed weight.
struct Format {
  int bits;
  enum { kPlain, kIntegers, kFloats } table;
  bool zero_points;
  ScaleType scales;
  int zero_range;
  bool masked = false;
};

// A random weight and what it points at.
struct Weight {
  Array<uint8_t> masks;  // of a masked weight
  std::vector<int64_t> first_lines;
  Array<uint8_t> packed;
  Array<uint8_t> scales;
  Array<int8_t> zeros;
  PackedWeight w{};

  static int64_t chunks_of(int64_t k) { return (k + kChunk - 1) / kChunk; }

  // Random masks.  Returns the bytes of the lines and their padding.
  int64_t draw_masks(Random* random, int bits, int64_t tiles, int64_t chunks) {
    int64_t at = 0;
    for (uint8_t& each : masks) each = static_cast<uint8_t>(random->next());
    for (int64_t i = 0; i < tiles * chunks; i++) {
      int lengths[8];
      line_lengths(bits, masks.data + i * kLine, lengths);
      if (i % chunks == 0) first_lines.push_back(at);
      for (int line = 0; line < bits; line++) at += lengths[line];
    }
    return at + kLine;
  }

  static int64_t groups_of(int64_t k, int64_t group) { return (k + group - 1) / group; }

  Weight(Random* random, const Format& f, int64_t n, int64_t k, int64_t group, int64_t tiles)
      : masks(f.masked ? tiles * chunks_of(k) * kLine : 1),
        packed(f.masked ? draw_masks(random, f.bits, tiles, chunks_of(k))
                        : tiles * chunks_of(k) * kLine * f.bits),
        scales(tiles * groups_of(k, group) * kTile * bytes_of(f.scales)),
        zeros(tiles * groups_of(k, group) * kTile) {
    for (uint8_t& each : packed) each = static_cast<uint8_t>(random->next());
    for (uint8_t* at = scales.begin(); at < scales.end(); at += bytes_of(f.scales))
      set_scale(random, f.scales, at);
    for (int8_t& each : zeros)
      each = static_cast<int8_t>(random->below(2 * f.zero_range + 1) - f.zero_range);
    w.n = n;
    w.k = k;
    w.bits = f.bits;
    w.group_size = static_cast<int32_t>(group);
    w.groups = static_cast<int32_t>(groups_of(k, group));
    w.tiles = static_cast<int32_t>(tiles);
    w.chunks = static_cast<int32_t>(chunks_of(k));
    w.masks = f.masked ? masks.data : nullptr;
    w.first_lines = first_lines.data();
    w.offset = f.table == Format::kFloats ? 0 : f.table ? 128 : 1 << (f.bits - 1);
    w.least = -w.offset;
    w.most = f.table ? 127 : w.offset - 1;
    w.e4m3_unit = 256 * 0x1.3p-8f;
    w.packed = packed.data;
    w.scale_type = f.scales;
    w.scales = scales.data;
    w.zero_points = f.zero_points ? zeros.data : nullptr;
    w.has_table = f.table == Format::kIntegers;
    w.has_values = f.table == Format::kFloats;
    for (int c = 0; c < 256; c++) {
      w.operand[c] = static_cast<uint8_t>(w.has_table && c < 1 << f.bits ? random->next() : c);
      if (w.has_values && c < 1 << f.bits) w.values[c] = f.masked && !c ? 0 : random->value();
    }
  }

  static int64_t bytes_of(ScaleType type) {
    PackedWeight w{};
    w.scale_type = type;
    return scale_bytes(&w);
  }

  // Scales from 2^-8 to 2^-6 or thereabouts; some of 8 bits are negative, or the least there are.
  static void set_scale(Random* random, ScaleType type, uint8_t* at) {
    const float value = 0.005f + 0.015f * static_cast<float>(random->below(999)) / 999;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (type == kScaleF16) bits = static_cast<uint32_t>(0x1c00 + random->below(0x800));
    if (type == kScaleBf16) bits >>= 16;
    if (type == kScaleE8m0) bits = random->below(9) ? 119 + random->next() % 3 : random->next() % 2;
    if (type == kScaleE4m3) bits = random->next() % 0x58 | (random->next() & 0x80);
    memcpy(at, &bits, bytes_of(type));  // the low bytes: little-endian
  }
};

void in_turn(void*, void (*fn)(void*, size_t), void* data, size_t count) {
  for (size_t i = 0; i < count; i++) fn(data, i);
}

void compare(const std::string& name, const Array<float>& found, const Array<float>& expected) {
  double most = 1e-3, error = 0;
  bool apart = false;  // NaN here, none there
  const float* y = found.begin();
  for (const float each : expected) {
    const float other = *y++;
    apart |= isnan(each) != isnan(other);
    if (!isfinite(each)) continue;
    most = fmax(most, fabs(each));
    error = fmax(error, fabs(static_cast<double>(each) - other));
  }
  cases++;
  if (!apart && error <= kTolerance * most) return;
  failures++;
  printf("%s: %s, error %.3g of %.3g\n", name.c_str(), apart ? "NaN" : "values", error, most);
}

std::string text_of(const Format& f) {
  const char* const tables[] = {"", " table", " float table"};
  const char* const scales[] = {" f32", " f16", " bf16", " e8m0", " e4m3"};
  return std::to_string(f.bits) + " bits" + tables[f.table] +
         (f.zero_points ? " zero points to " + std::to_string(f.zero_range) : "") +
         scales[f.scales] + (f.masked ? " masked" : "");
}

// Of either sign, 2^-4 to 2^-1 in magnitude.
uint16_t random_half(Random* random) {
  return static_cast<uint16_t>(0x2c00 + random->below(0xc00) + (random->next() & 0x8000));
}

struct MatMulCase {
  int64_t n, k, group, rows;
  int act_bits;               // 0 for float activations
  bool shared_scale, extras;  // bias, residual and two parts
  Activation activation;
  bool broken;                // NaN and infinity in rows
  float act_scale = 0;        // 0 where groups have their own
  bool prologue = false;      // a norm, a Hadamard transform in blocks of 4, and input scales
  int32_t rank = 0;           // of the low-rank branch; of halves where it is odd
  float keep = 0;             // share of the columns that are not skipped; 0 for all
};

void check_matmul(const Kernels* kernels, const Format& f, const MatMulCase& c) {
  Random random(f.bits * 1000 + c.n * 31 + c.k * 7 + c.rows);
  const bool paired = c.activation == kSwiGlu;
  const int64_t group = c.group ? c.group : c.k, columns = paired ? c.n / 2 : c.n;
  const int64_t tiles = (columns + kTile - 1) / kTile * (paired ? 2 : 1);
  const Weight weight(&random, f, c.n, c.k, group, tiles);
  const Array<float> x = values(&random, c.rows * c.k), bias = values(&random, c.n);
  const Array<float> residual = values(&random, c.rows * columns), gain = values(&random, c.k);
  const Array<float> input_scales = values(&random, paired ? c.k : tiles * c.k);
  Array<float> norms = values(&random, c.k);
  for (float& norm : norms) norm = fabsf(norm);
  const bool half = c.rank % 2;
  const Array<float> down = values(&random, c.rank * c.k);
  const Array<float> up = values(&random, tiles * c.rank * kTile);
  Array<uint16_t> down_halves(c.rank * c.k), up_halves(tiles * c.rank * kTile);
  for (uint16_t& each : down_halves) each = random_half(&random);
  for (uint16_t& each : up_halves) each = random_half(&random);
  if (c.broken) {
    x.data[c.k - 1] = NAN;
    if (c.rows > 2) x.data[c.k] = INFINITY, x.data[3 * c.k - 1] = -INFINITY;
    if (c.rows > 4)
      for (int64_t i = 0; i < c.k; i++) x.data[3 * c.k + i] = 0, x.data[4 * c.k + i] *= 1e-32f;
  }
  const int64_t tile = kTile, cut = c.extras && columns > tile ? tile : columns;
  Array<float> y[2] = {Array<float>(c.rows * columns), Array<float>(c.rows * columns)};
  for (int which = 0; which < 2; which++) {
    const Part parts[2] = {{y[which].data, 0, cut},
                           {y[which].data + c.rows * cut, cut, columns - cut}};
    MatMul op{};
    op.weight = &weight.w;
    op.masked = which ? &kMaskedRef : kernels->masked;
    op.bias = c.extras ? bias.data : nullptr;
    op.residual = c.extras ? residual.data : nullptr;
    op.activation = c.activation;
    op.int8 = c.act_bits != 0;
    op.act_bits = c.act_bits;
    op.act_group_size = c.shared_scale ? c.k : group;
    op.act_scale = c.act_scale;
    if (c.prologue) {
      op.prologue.gain = gain.data;
      op.prologue.epsilon = 1e-3f;
      op.prologue.hadamard = {c.k % 4 ? 1 : 4, 1, c.k % 4 ? 0 : 2, c.k % 4 ? 1 : 0.5f, nullptr};
    }
    if (c.keep > 0) op.prologue.skip = {norms.data, c.keep};
    if (c.prologue) {
      op.input_scales = input_scales.data;
      op.scaled_tiles = paired ? static_cast<int32_t>(tiles) : 1;
    }
    op.low_rank = {c.rank, half, half ? static_cast<const void*>(down_halves.data) : down.data,
                   half ? static_cast<const void*>(up_halves.data) : up.data, nullptr, false};
    op.rows = c.rows;
    op.x = x.data;
    op.parts = parts;
    op.part_count = cut < columns ? 2 : 1;
    op.columns = columns;
    const MatMulKernels chosen = which ? kernels_for(&kMatMulRef, &kPlanesRef, &op)
                                       : kernels_for(kernels->matmul, kernels->planes, &op);
    if (!run_matmul(&chosen, op, in_turn, nullptr)) _exit(2);
  }
  compare("matmul " + text_of(f) + " N=" + std::to_string(c.n) + " K=" + std::to_string(c.k) +
              " group " + std::to_string(c.group) + " M=" + std::to_string(c.rows) +
              " acts " + std::to_string(c.act_bits) + " activation " +
              std::to_string(c.activation),
          y[0], y[1]);
}

struct ConvCase {
  int64_t n, channels, groups;
  int64_t kernel[2], stride[2], pad[2], dilation[2], size[2];
  int64_t group;  // channels, or 0 for all of a tap's
  bool int8, extras;
};

void check_conv(const Kernels* kernels, const Format& f, const ConvCase& g) {
  Random random(f.bits * 1000 + g.n * 31 + g.channels);
  Conv c{};
  c.outputs = g.n, c.channels = g.channels, c.groups = g.groups, c.images = 2;
  c.int8 = g.int8;
  for (int i = 0; i < 2; i++) {
    c.kernel[i] = g.kernel[i], c.stride[i] = g.stride[i], c.pad[i] = g.pad[i];
    c.dilation[i] = g.dilation[i], c.size[i] = g.size[i];
    const int64_t window = g.dilation[i] * (g.kernel[i] - 1) + 1;
    c.out[i] = (g.size[i] + 2 * g.pad[i] - window) / g.stride[i] + 1;
  }
  const int64_t depth = conv_depth(&c), taps = conv_taps(&c);
  const bool depthwise = depth == 1;
  const int64_t padded = taps == 1 || depthwise ? depth : round_up(depth, 16);
  const int64_t banks = depthwise ? 1 : g.groups, rows = g.n / banks;
  const int64_t group = depthwise ? taps : g.group ? g.group : padded;
  const Weight weight(&random, f, rows, taps * padded, group,
                      banks * ((rows + kTile - 1) / kTile));
  c.weight = &weight.w;
  c.act_group_size = g.group ? g.group : depth;
  c.least = g.extras ? 0 : -INFINITY;
  c.most = g.extras ? 6 : INFINITY;
  c.hardswish = g.extras;
  c.scale = g.extras ? 0.5f : 1;
  c.shift = g.extras ? 0.25f : 0;
  const int64_t outputs = c.images * g.n * conv_windows(&c);
  const Array<float> x = values(&random, c.images * g.channels * conv_pixels(&c));
  const Array<float> bias = values(&random, g.n), residual = values(&random, outputs);
  x.data[conv_pixels(&c) / 2] = NAN;
  x.data[0] = INFINITY;
  c.x = x.data;
  c.bias = g.extras ? bias.data : nullptr;
  c.residual = g.extras ? residual.data : nullptr;
  Array<float> y[2] = {Array<float>(outputs), Array<float>(outputs)};
  for (int which = 0; which < 2; which++) {
    c.y = y[which].data;
    if (!run_conv(which ? &kConvRef : kernels->conv, which ? &kMatMulRef : kernels->matmul, c,
                  in_turn, nullptr))
      _exit(2);
  }
  compare("conv " + text_of(f) + " N=" + std::to_string(g.n) + " C=" + std::to_string(g.channels) +
              " kernel " + std::to_string(g.kernel[0]) + "x" + std::to_string(g.kernel[1]) +
              " stride " + std::to_string(g.stride[0]) + "x" + std::to_string(g.stride[1]) +
              " group " + std::to_string(g.group) + (g.int8 ? " int8" : " float"),
          y[0], y[1]);
}

std::vector<Format> formats(int bits) {
  return {{bits, Format::kPlain, false, kScaleF16, 0},
          {bits, Format::kPlain, true, kScaleF32, 7},
          {bits, Format::kPlain, true, kScaleE8m0, 127},
          {bits, Format::kIntegers, false, kScaleBf16, 0},
          {bits, Format::kIntegers, true, kScaleE4m3, 7},
          {bits, Format::kFloats, false, kScaleE8m0, 0},
          {bits, Format::kFloats, true, kScaleE4m3, 7}};
}

std::vector<Format> masked_formats(int bits) {
  return {{bits, Format::kPlain, false, kScaleF16, 0, true},
          {bits, Format::kPlain, true, kScaleF32, (1 << (bits - 1)) - 1, true},
          {bits, Format::kIntegers, true, kScaleBf16, 7, true},
          {bits, Format::kFloats, false, kScaleE8m0, 0, true}};
}

void check_all_matmul(const Kernels* kernels) {
  struct Shape {
    int64_t n, k, group;
  };
  const Shape shapes[] = {{1, 1, 0},    {5, 3, 0},     {16, 32, 32}, {17, 33, 16}, {33, 70, 32},
                          {31, 100, 16}, {50, 200, 48}, {20, 333, 0}, {48, 576, 64}};
  for (int bits = 1; bits <= 8; bits++)
    for (const Format& f : formats(bits))
      for (const Shape& s : shapes)
        for (int64_t rows : {1, 2, 3, 4, 5, 8, 9, 14})
          for (int acts : {8, 0}) {
            if (acts && f.table == Format::kFloats) continue;
            const bool odd = (s.n + rows) % 2;
            check_matmul(kernels, f, {s.n, s.k, s.group, rows, acts, odd, odd, kIdentity, false});
          }
  for (int bits = 1; bits <= 8; bits++)
    for (const Format& f : masked_formats(bits))
      for (const Shape& s : shapes)
        for (int64_t rows : {1, 5, 14})
          for (int acts : {8, 0}) {
            if (acts && f.table == Format::kFloats) continue;
            const Activation activation = rows == 5 && s.n % 2 == 0 ? kSwiGlu : kIdentity;
            check_matmul(kernels, f, {s.n, s.k, s.group, rows, acts, true, true, activation, false});
          }
  const Format f = {4, Format::kPlain, true, kScaleF16, 7};
  const Format values = {5, Format::kFloats, true, kScaleBf16, 7};
  for (int64_t size = 1; size < 40; size++) {
    check_matmul(kernels, f, {size, 64, 32, size, 8, false, true, kIdentity, false});
    check_matmul(kernels, f, {20, size, 0, 5, 8, true, false, kIdentity, false});
    check_matmul(kernels, f, {20, size, 0, 3, 0, true, false, kIdentity, false});
    check_matmul(kernels, f, {20, size, 0, 5, 8, true, false, kIdentity, size == 9, 4e-3f});
    check_matmul(kernels, f, {20, 3 * size, 0, 6, 0, true, false, kIdentity, size == 9, 0, true});
  }
  for (int bits = 1; bits <= 4; bits++)
    for (const Format& each : formats(bits))
      for (const Shape& s : shapes)
        for (int64_t rows : {1, 5, 9})
          for (int acts = 1; acts <= 4 && each.table != Format::kFloats; acts++)
            check_matmul(kernels, each, {s.n, s.k, s.group, rows, acts, acts % 2 == 0, false,
                                         kIdentity, rows == 5});
  for (Activation activation : {kIdentity, kSwiGlu, kRelu, kGelu, kGeluTanh})
    for (int64_t rows : {1, 4, 6, 13})
      for (int flags = 0; flags < 8; flags++)
        for (const Format& each : {f, values}) {
          if (flags & 1 && each.table == Format::kFloats) continue;
          check_matmul(kernels, each, {70, 96, 32, rows, flags & 1 ? 8 : 0, (flags & 2) != 0,
                                       (flags & 4) != 0, activation, rows == 6});
        }
  for (int32_t rank : {1, 2, 3, 9, 16, 33, 40})
    for (int64_t rows : {1, 2, 3, 4, 5, 6, 13})
      for (Activation activation : {kIdentity, kSwiGlu})
        for (const Format& each : {f, values}) {
          const int acts = each.table == Format::kFloats ? 0 : 8;
          check_matmul(kernels, each, {70, 98, 32, rows, acts, true, rank % 3 != 0, activation,
                                       rows == 6, 0, false, rank});
          // Float activations: a row that differs in a bit may round to another code.
          check_matmul(kernels, each, {70, 98, 32, rows, 0, true, false, activation, rows == 6, 0,
                                       true, rank});
        }
  const Format masked = {4, Format::kPlain, true, kScaleF16, 7, true};
  const Format table = {3, Format::kFloats, false, kScaleF32, 0, true};
  for (int64_t rows : {1, 3, 6, 13})
    for (float keep : {0.f, 0.3f, 1.f})
      for (int32_t rank : {0, 7, 8})
        for (Activation activation : {kIdentity, kSwiGlu})
          for (const Format& each : {f, values, masked, table}) {
            const int acts = each.table == Format::kFloats ? 0 : 8;
            check_matmul(kernels, each, {70, 98, 32, rows, acts, false, true, activation,
                                         rows == 6, 0, false, rank, keep});
            check_matmul(kernels, each, {70, 98, 32, rows, 0, false, false, activation, rows == 6,
                                         0, true, rank, keep});
          }
}

void check_all_conv(const Kernels* kernels) {
  const ConvCase conv[] = {
      {40, 40, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {7, 9}, 0, true, false},
      {33, 64, 1, {1, 3}, {1, 1}, {0, 1}, {1, 1}, {1, 21}, 32, true, true},
      {50, 96, 1, {1, 1}, {1, 1}, {0, 0}, {1, 1}, {6, 7}, 16, true, true},
      {24, 23, 1, {1, 1}, {2, 2}, {0, 0}, {1, 1}, {9, 9}, 0, true, false},
      {35, 50, 5, {5, 3}, {1, 2}, {2, 1}, {1, 2}, {8, 11}, 0, true, true},
      {17, 5, 1, {3, 3}, {2, 1}, {1, 0}, {1, 1}, {5, 8}, 0, true, true},
      {35, 50, 5, {3, 2}, {1, 1}, {1, 0}, {1, 1}, {6, 5}, 0, false, true},
      {20, 33, 1, {1, 1}, {1, 1}, {0, 0}, {1, 1}, {5, 5}, 0, false, false},
      {20, 20, 20, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {9, 13}, 0, false, true},
  };
  for (int bits = 1; bits <= 8; bits++)
    for (const Format& f : formats(bits))
      for (const ConvCase& c : conv)
        if (f.table != Format::kFloats || (!c.int8 && c.groups < c.channels))
          check_conv(kernels, f, c);
  const Format f = {8, Format::kPlain, true, kScaleF16, 7};
  for (int64_t size = 1; size < 24; size++)
    for (int64_t k : {3, 5, 4})
      for (int64_t stride : {1, 2, 3})
        check_conv(kernels, f,
                   {36, 18, 18, {k, k}, {stride, 1 + size % 2}, {k / 2, 2}, {1, 1}, {size, 24 - size},
                    0, false, size % 2 == 0});
  for (int64_t size = 1; size < 40; size++)
    check_conv(kernels, f,
               {20, size + 1, 1, {3, 1}, {1, 1}, {1, 0}, {1, 1}, {3, size}, 0, true, size % 2 == 0});
}

void check_gather(const Kernels* kernels) {
  for (int bits = 1; bits <= 8; bits++)
    for (const Format& f : formats(bits)) {
      Random random(bits);
      const Weight weight(&random, f, 33, 70, 32, 3);
      const Array<float> found(70), expected(70);
      for (int64_t row = 0; row < 33; row++) {
        kernels->gather_row(&weight.w, row, found.data);
        gather_row_ref(&weight.w, row, expected.data);
        compare("gather " + text_of(f), found, expected);
      }
    }
}

void check_hadamard(const Kernels* kernels) {
  for (int32_t base : {1, 4, 12, 20})
    for (int32_t bits = 0; bits < 11; bits++)
      for (int64_t blocks : {1, 3}) {
        Random random(base + bits);
        Array<uint16_t> signs(base * base / 4);
        for (int32_t i = 0; i < base * (base / 4); i++)
          signs.data[i] = static_cast<uint16_t>(i % (base / 4) * 16 + random.below(16));
        const int64_t size = static_cast<int64_t>(base) << bits;
        const Hadamard h = {size, base, bits, 1 / sqrtf(static_cast<float>(size)),
                            base == 1 ? nullptr : signs.data};
        const Array<float> x = values(&random, size * blocks);
        const Array<float> found(size * blocks), expected(size * blocks);
        Array<float> scratch(hadamard_scratch(&h));
        kernels->hadamard(&h, x.data, found.data, blocks, scratch.data);
        hadamard_ref(&h, x.data, expected.data, blocks, scratch.data);
        compare("hadamard " + std::to_string(base) + " << " + std::to_string(bits), found, expected);
      }
}

}  // namespace
}  // namespace bitfold

int main(int count, char** arguments) {
  using namespace bitfold;
  const Kernels* found = kernels();
  const char* wanted = count > 1 ? arguments[1] : "neon";
  if (found == nullptr || strcmp(found->isa, wanted) != 0) {
    printf("expected ISA %s, found %s\n", wanted, found ? found->isa : kernels_error());
    return 1;
  }
  check_all_matmul(found);
  check_all_conv(found);
  check_gather(found);
  check_hadamard(found);
  printf("%s: %d cases, %d failures\n", found->isa, cases, failures);
  return failures > 0;
}
