// Which instruction set runs: the best this processor has, unless the environment names another.
#include "ahead.h"
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#define KG_X86 1
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace kg {
namespace {

#ifdef KG_X86

struct Registers {
  uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf, uint32_t part) {
  Registers r = {};
#ifdef _MSC_VER
  __cpuidex(reinterpret_cast<int *>(&r), (int)leaf, (int)part);
#else
  __cpuid_count(leaf, part, r.a, r.b, r.c, r.d);
#endif
  return r;
}

// Which registers the system saves at a change of threads; without that, using them corrupts data.
uint64_t saved_state() {
#ifdef _MSC_VER
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
#endif
}

bool is_intel() { return cpuid(0, 0).c == 0x6c65746e; } // "ntel", the end of its name

bool all(uint32_t word, std::initializer_list<int> bits) {
  for (int bit : bits)
    if (!(word >> bit & 1)) return false;
  return true;
}

std::vector<const Kernels *> supported() {
  std::vector<const Kernels *> found = {portable_kernels()};
  if (cpuid(0, 0).a < 7) return found;
  const Registers basic = cpuid(1, 0), more = cpuid(7, 0);
  if (!all(basic.c, {27})) return found; // OSXSAVE: xgetbv may be asked
  const uint64_t saved = saved_state();
  if ((saved & 0x6) != 0x6) return found;
  // FMA, AVX, F16C; AVX2
  if (!all(basic.c, {12, 28, 29}) || !all(more.b, {5})) return found;
  found.push_back(avx2_kernels());
  if (more.a >= 1 && all(cpuid(7, 1).a, {4})) found.push_back(avx_vnni_kernels());
  // AVX-512 F, DQ, BW, VL; VNNI
  if ((saved & 0xe0) == 0xe0 && all(more.b, {16, 17, 30, 31}) && all(more.c, {11})) {
    found.push_back(vnni_kernels());
    found.push_back(is_intel() ? avx512_kernels() : avx512_wide_kernels());
    found.push_back(is_intel() ? avx512_wide_kernels() : avx512_kernels());
  }
  return found;
}

#elif defined(__aarch64__)

bool has_dotprod() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) >> 20 & 1; // HWCAP_ASIMDDP
#elif defined(__APPLE__)
  int32_t yes = 0;
  size_t size = sizeof yes;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &yes, &size, nullptr, 0) == 0 && yes;
#else
  return false;
#endif
}

std::vector<const Kernels *> supported() {
  std::vector<const Kernels *> found = {portable_kernels(), neon_kernels()};
  if (has_dotprod()) found.push_back(dotprod_kernels());
  return found;
}

#else

std::vector<const Kernels *> supported() { return {portable_kernels()}; }

#endif

const std::vector<const Kernels *> &all_kernels() {
  static const std::vector<const Kernels *> list = supported();
  return list;
}

const Kernels *find(const char *name) {
  for (const Kernels *k : all_kernels())
    if (strcmp(k->name, name) == 0) return k;
  return nullptr;
}

const Kernels *&chosen() {
  // A name that is not known here leaves the best set; Python tells of it.
  static const Kernels *k = [] {
    const char *name = std::getenv("KERAS_GEMMA_KERNELS_ISA");
    const Kernels *named = name ? find(name) : nullptr;
    return named ? named : all_kernels().back();
  }();
  return k;
}

} // namespace

bool one_row_fetches() {
#ifdef KG_X86
  static const bool intel = is_intel();
  return intel;
#else
  return false;
#endif
}

const Kernels &kernels() { return *chosen(); }

bool use_kernels(const char *name) {
  const Kernels *k = find(name);
  if (k) chosen() = k;
  return k != nullptr;
}

const char *kernel_names() {
  static const std::string names = [] {
    std::string text;
    for (const Kernels *k : all_kernels()) text += (text.empty() ? "" : ",") + std::string(k->name);
    return text;
  }();
  return names.c_str();
}

} // namespace kg
