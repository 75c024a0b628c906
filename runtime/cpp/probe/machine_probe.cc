// What this machine can do, for benchmarks to compare with: no part of the operator library.
//
// Built with -march=native by tests/benchmarks/bench_kernels.py.

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

volatile int32_t sink;

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
using Vector = __m512i;
constexpr double kOperations = 128;  // of one multiplication of four bytes in every lane
inline Vector splat(int32_t value) { return _mm512_set1_epi32(value); }
inline Vector dot(Vector sum, Vector a, Vector b) { return _mm512_dpbusd_epi32(sum, a, b); }
inline Vector add(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
inline Vector load(const uint8_t* at) { return _mm512_loadu_si512(at); }
inline int32_t first(Vector v) { return _mm512_cvtsi512_si32(v); }
#elif defined(__AVX2__)
using Vector = __m256i;
constexpr double kOperations = 64;
inline Vector splat(int32_t value) { return _mm256_set1_epi32(value); }
inline Vector dot(Vector sum, Vector a, Vector b) {
  return _mm256_add_epi32(
      sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
inline Vector add(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
inline Vector load(const uint8_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}
inline int32_t first(Vector v) { return _mm256_cvtsi256_si32(v); }
#else
using Vector = int32_t;
constexpr double kOperations = 2;
inline Vector splat(int32_t value) { return value; }
inline Vector dot(Vector sum, Vector a, Vector b) { return sum + a * b; }
inline Vector add(Vector a, Vector b) { return a + b; }
inline Vector load(const uint8_t* at) { return *reinterpret_cast<const int32_t*>(at); }
inline int32_t first(Vector v) { return v; }
#endif

// Keeps the compiler from foreseeing what a register holds.
inline void blur(Vector& v) {
#if defined(__AVX2__)
  __asm__ volatile("" : "+v"(v));
#else
  __asm__ volatile("" : "+r"(v));
#endif
}

}  // namespace

// Multiply-adds of bytes held in registers.  Returns the operations done; the caller times it.
extern "C" double probe_int8() {
  constexpr int64_t kRounds = 4000000;
  // Twelve sums that differ, or the compiler would compute one.
  Vector s0 = splat(0), s1 = splat(1), s2 = splat(2), s3 = splat(3), s4 = splat(4);
  Vector s5 = splat(5), s6 = splat(6), s7 = splat(7), s8 = splat(8), s9 = splat(9);
  Vector s10 = splat(10), s11 = splat(11), a = splat(3), b = splat(5);
  blur(a);
  blur(b);
  for (int64_t i = 0; i < kRounds; i++) {
    s0 = dot(s0, a, b), s1 = dot(s1, a, b), s2 = dot(s2, a, b), s3 = dot(s3, a, b);
    s4 = dot(s4, a, b), s5 = dot(s5, a, b), s6 = dot(s6, a, b), s7 = dot(s7, a, b);
    s8 = dot(s8, a, b), s9 = dot(s9, a, b), s10 = dot(s10, a, b), s11 = dot(s11, a, b);
    blur(a);
  }
  Vector all = add(add(add(s0, s1), add(s2, s3)), add(add(s4, s5), add(s6, s7)));
  sink = first(add(all, add(add(s8, s9), add(s10, s11))));
  return kRounds * 12 * kOperations;
}

namespace {

// Reads `bytes` bytes once in STREAMS equal runs side by side, each fetched `ahead` bytes ahead.
template <int STREAMS>
void read_streams(const uint8_t* data, size_t bytes, size_t ahead) {
  constexpr size_t kStep = 256;
  constexpr int kVectors = kStep / sizeof(Vector);
  const size_t each = bytes / STREAMS / kStep * kStep;
  Vector sum[4] = {splat(0), splat(0), splat(0), splat(0)};
  for (size_t i = 0; i < each; i += kStep)
    for (int stream = 0; stream < STREAMS; stream++) {
      const uint8_t* at = data + stream * each + i;
      if (ahead)
        for (size_t line = 0; line < kStep; line += 64)
          __builtin_prefetch(at + ahead + line, 0, 2);
      for (int v = 0; v < kVectors; v++)
        sum[v % 4] = add(sum[v % 4], load(at + v * sizeof(Vector)));
    }
  sink = first(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
}

}  // namespace

// The ways to read that `probe_read` knows: which is fastest differs from machine to machine and
// from one level of its memory to the next.
extern "C" int probe_ways() { return 6; }

// Reads `bytes` bytes `times` times over.  Returns the bytes read; the caller times it.
extern "C" double probe_read(const uint8_t* data, size_t bytes, int times, int way) {
  for (int i = 0; i < times; i++) switch (way) {
      case 0: read_streams<1>(data, bytes, 0); break;
      case 1: read_streams<1>(data, bytes, 2 << 10); break;
      case 2: read_streams<1>(data, bytes, 8 << 10); break;
      case 3: read_streams<2>(data, bytes, 4 << 10); break;
      case 4: read_streams<4>(data, bytes, 2 << 10); break;
      default: read_streams<4>(data, bytes, 0); break;
    }
  return static_cast<double>(bytes) * times;
}
