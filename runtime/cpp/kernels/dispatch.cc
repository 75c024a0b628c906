#include "dispatch.h"

#include <cstdlib>
#include <cstring>
#include <string>

#if defined(BITFOLD_X86)
#include <cpuid.h>
#elif defined(BITFOLD_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace bitfold {
namespace {

const Kernels kRef = {"ref",        &kMatMulRef, gather_row_ref, &kConvRef,
                      hadamard_ref, &kPlanesRef, &kAttentionRef, &kMaskedRef};

#if defined(BITFOLD_X86)
const Kernels kAvx2 = {"avx2",        &kMatMulAvx2, gather_row_avx2, &kConvAvx2,
                       hadamard_avx2, &kPlanesAvx2, &kAttentionAvx2, &kMaskedAvx2};
#if defined(BITFOLD_AVXVNNI)
const Kernels kAvxVnni = {"avxvnni",     &kMatMulAvxVnni, gather_row_avx2, &kConvAvxVnni,
                          hadamard_avx2, &kPlanesAvx2,    &kAttentionAvx2, &kMaskedAvx2};
#endif
const Kernels kAvx512Vnni = {"avx512vnni",     &kMatMulAvx512Vnni, gather_row_avx512,
                             &kConvAvx512Vnni, hadamard_avx512,    &kPlanesAvx512,
                             &kAttentionAvx512Vnni, &kMaskedAvx2};
const Kernels kAvx512Bitalg = {"avx512bitalg",   &kMatMulAvx512Vbmi, gather_row_avx512,
                               &kConvAvx512Vnni, hadamard_avx512,    &kPlanesBitalg,
                               &kAttentionAvx512Vnni, &kMaskedAvx512Vbmi2};

// Whether the operating system saves these parts of the register state (XCR0).
bool state_enabled(unsigned mask) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & mask) == mask;
}

bool has_avx2() {
  unsigned a, b, c, d;
  if (!state_enabled(0x6) || !__get_cpuid(1, &a, &b, &c, &d)) return false;
  if (!(c & bit_FMA) || !(c & bit_F16C)) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

#if defined(BITFOLD_AVXVNNI)
bool has_avxvnni() {
  unsigned a, b, c, d;
  if (!has_avx2() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || a < 1) return false;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

bool has_avx512vnni() {
  unsigned a, b, c, d;
  if (!has_avx2() || !state_enabled(0xe6)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const unsigned wanted = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
  return (b & wanted) == wanted && (c & bit_AVX512VNNI);
}

// These came together: no CPU that has VNNI has some of them alone.
bool has_avx512bitalg() {
  unsigned a, b, c, d;
  if (!has_avx512vnni() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const unsigned wanted = bit_AVX512BITALG | bit_AVX512VPOPCNTDQ | bit_AVX512VBMI |
                          bit_AVX512VBMI2 | bit_GFNI;
  return (c & wanted) == wanted;
}
#elif defined(BITFOLD_ARM64)
// Never faster than products of bytes.
const PlaneKernels kNoPlanes = {{}, 0};
const Kernels kNeon = {"neon",        &kMatMulNeon, gather_row_neon, &kConvNeon,
                       hadamard_neon, &kNoPlanes,   &kAttentionRef, &kMaskedNeon};

// Whether the CPU multiplies bytes with sdot.
bool has_neon() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
  return true;  // every Mac with an Arm CPU does
#else
  return false;
#endif
}
#endif

// One more ISA is one more entry here, in CMakeLists.txt, and its files.
struct Candidate {
  const Kernels* kernels;
  bool supported;
};

struct Choice {
  const Kernels* kernels = nullptr;
  std::string supported, error;

  Choice() {
    const Candidate candidates[] = {
        {&kRef, true},
#if defined(BITFOLD_X86)
        {&kAvx2, has_avx2()},
#if defined(BITFOLD_AVXVNNI)
        {&kAvxVnni, has_avxvnni()},
#endif
        {&kAvx512Vnni, has_avx512vnni()},
        {&kAvx512Bitalg, has_avx512bitalg()},
#elif defined(BITFOLD_ARM64)
        {&kNeon, has_neon()},
#endif
    };
    const char* wanted = std::getenv("BITFOLD_ISA");
    if (wanted && !*wanted) wanted = nullptr;
    for (const Candidate& each : candidates) {
      if (!each.supported) continue;
      supported += (supported.empty() ? "" : ",") + std::string(each.kernels->isa);
      if (!wanted || !std::strcmp(wanted, each.kernels->isa)) kernels = each.kernels;
    }
    if (!kernels)
      error = std::string("BITFOLD_ISA: expected one of ") + supported + " on this machine, found " +
              wanted;
  }
};

const Choice& choice() {
  static const Choice chosen;
  return chosen;
}

}  // namespace

const Kernels* kernels() { return choice().kernels; }
const char* kernels_error() { return choice().error.c_str(); }
const char* supported_isas() { return choice().supported.c_str(); }

}  // namespace bitfold
