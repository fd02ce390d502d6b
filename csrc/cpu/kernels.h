// Fused spectral kernels for square float32 (or uint8) planes of a few sizes: plain pointers, one table per instruction
// set.
#pragma once

#include <cstdint>

#include "../ring_geometry.h"

namespace freqrob::cpu {

/// Groups [begin, end) of a call.
struct Groups {
  int64_t begin, end;
};

struct RingSum {
  RingView map;
  const float* x;  // (planes, N, N)
  float* out;      // (planes, rings)
  int64_t planes;
  bool amplitude;
};

struct RingFilter {
  RingView map;
  const float* x;        // (planes, N, N)
  const float* weights;  // (planes, rings)
  float* out;            // (planes, N, N)
  int64_t planes;
  float outside;  // gain of the coefficients on no ring, 0 if there are none
};

struct RingDot {
  RingView map;
  const float* x;  // (planes, N, N)
  const float* y;  // (planes, N, N)
  float* out;      // (planes, rings)
  int64_t planes;
};

struct AmplitudeMap {
  const float* x;  // (planes, N, N)
  double* out;     // (groups, N, N/2 + 1): Σ over the planes of each group
  int64_t planes;
};

template <class Pixel>
struct Bass {
  RingView map;
  const float* norms;     // (rings): what makes a ring's sum its a_i
  const bool* weighable;  // (rings): whether the ring's weight may differ from 1
  const Pixel* x;         // (planes, N, N)
  Pixel* out;             // (planes, N, N), may be x
  int64_t planes;
  float unit;   // pixel scale of the logarithm over the value of white in x
  float white;  // value of white in x
  bool of_power;
};

/// The kernels for planes of one size. They work on groups of planes; callers spread the groups over threads. `scratch`
/// is 64-byte aligned and holds scratch_bytes(rings).
struct Fused {
  int64_t planes_per_group;
  int64_t planes_per_map;  // of amplitude_map
  int64_t (*scratch_bytes)(int64_t rings);
  void (*ring_sum)(const RingSum&, Groups, void* scratch);
  void (*ring_filter)(const RingFilter&, Groups, void* scratch);
  void (*ring_dot)(const RingDot&, Groups, void* scratch);
  void (*amplitude_map)(const AmplitudeMap&, Groups, void* scratch);
  void (*bass_float)(const Bass<float>&, Groups, void* scratch);
  void (*bass_uint8)(const Bass<uint8_t>&, Groups, void* scratch);
};

/// The kernels of one instruction set.
struct Kernels {
  const char* name;
  int lanes;
  const Fused* (*fused)(int64_t height, int64_t width);  // null where there are none

  // The parts, for tests. Lines of N complex numbers, re and im interleaved, `lanes` lines at a time.
  void (*fft_lanes)(int64_t size, bool inverse, const float* in, float* out);
  void (*transpose_lanes)(const float* in, float* out);  // (lanes, lanes)
  void (*log_lanes)(const float* in, float* out);        // (lanes)
};

/// What bass_gains takes for one profile.
struct ScalarMath {
  static FREQROB_INLINE double log(double v) { return __builtin_log(v); }
  static FREQROB_INLINE double sqrt(double v) { return __builtin_sqrt(v); }
};

const Kernels& baseline_kernels();
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FREQROB_WIDE_KERNELS
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

/// The named instruction set ("avx512", "avx2", "baseline"); throws std::runtime_error if unknown or unsupported here.
/// Exported, so that tests reach the kernels of the library that is in use.
__attribute__((visibility("default"))) const Kernels& kernels_for(const char* isa);

/// What FREQROB_ISA names, else the widest set this CPU has; decided once.
const Kernels& active_kernels();

}  // namespace freqrob::cpu
