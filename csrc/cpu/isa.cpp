#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace freqrob::cpu {
namespace {

bool has_avx2() {
#ifdef FREQROB_WIDE_KERNELS
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool has_avx512() {
#ifdef FREQROB_WIDE_KERNELS
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

}  // namespace

const Kernels& kernels_for(const char* isa) {
  const std::string name = isa;
  if (name == "baseline") return baseline_kernels();
#ifdef FREQROB_WIDE_KERNELS
  if (name == "avx2" && has_avx2()) return avx2_kernels();
  if (name == "avx512" && has_avx512()) return avx512_kernels();
#endif
  if (name == "avx2" || name == "avx512") {
    throw std::runtime_error("FREQROB_ISA: got '" + name + "', which this CPU or build does not have");
  }
  throw std::runtime_error("FREQROB_ISA: expected 'avx512', 'avx2' or 'baseline', got '" + name + "'");
}

const Kernels& active_kernels() {
  static const Kernels& kernels = []() -> const Kernels& {
    if (const char* isa = std::getenv("FREQROB_ISA"); isa && *isa) return kernels_for(isa);
    return kernels_for(has_avx512() ? "avx512" : has_avx2() ? "avx2" : "baseline");
  }();
  return kernels;
}

}  // namespace freqrob::cpu
