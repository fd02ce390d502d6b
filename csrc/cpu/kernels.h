// Fused spectral kernels for planes of any size: plain pointers, one table per instruction set.
//
// A plane's result depends only on the plane: all planes of a size go through the same instructions, independent of
// their position, the other planes, the number of planes and their address.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../ring_geometry.h"

namespace freqrob::cpu {

/// Groups [begin, end) of a call.
struct Groups {
  int64_t begin, end;
};

/// Memory for kernels, 64-byte aligned, of size scratch_bytes(map). It also keeps what kernels prepare for a ring map.
struct Scratch {
  void* memory;
  bool is_prepared;  // a kernel of the same table has prepared it for the same map
};

template <class T>
struct RingSum {
  RingView map;
  const T* x;  // (planes, height, width)
  T* out;      // (planes, rings)
  int64_t planes;
  bool amplitude;
};

template <class T>
struct RingFilter {
  RingView map;
  const T* x;        // (planes, height, width)
  const T* weights;  // (planes, rings)
  T* out;            // (planes, height, width)
  int64_t planes;
  T outside;            // gain of the coefficients on no ring, 0 if there are none
  bool over_amplitude;  // divide each coefficient by its amplitude, and do not divide by the number of pixels
};

template <class T>
struct RingDot {
  RingView map;
  const T* x;  // (planes, height, width)
  const T* y;  // (planes, height, width)
  T* out;      // (planes, rings)
  int64_t planes;
};

template <class T>
struct AmplitudeMap {
  RingView map;  // of no rings
  const T* x;    // (planes, height, width)
  double* out;   // (groups, height, width/2 + 1): Σ over the planes of each group
  int64_t planes;
};

template <class Pixel>
struct Bass {
  using Real = std::conditional_t<std::is_same_v<Pixel, double>, double, float>;

  RingView map;
  const Real* norms;      // (rings): factor from a ring's sum to its a_i
  const bool* weighable;  // (rings): whether the ring's weight may differ from 1; both are read to the end of a vector
  const Pixel* x;         // (planes, height, width)
  Pixel* out;             // (planes, height, width), may be x
  int64_t planes;
  Real unit;   // pixel scale of the logarithm over the value of white in x
  Real white;  // value of white in x
  bool of_power;
};

/// The kernels for planes of one size, of floats or doubles. They work on groups of planes; callers distribute the
/// groups over threads.
template <class T>
struct Fused {
  int64_t planes_per_group;
  int64_t planes_per_map;  // of amplitude_map
  int64_t (*scratch_bytes)(const RingView& map);
  void (*ring_sum)(const RingSum<T>&, Groups, Scratch);
  void (*ring_filter)(const RingFilter<T>&, Groups, Scratch);
  void (*ring_dot)(const RingDot<T>&, Groups, Scratch);
  void (*amplitude_map)(const AmplitudeMap<T>&, Groups, Scratch);
  void (*bass)(const Bass<T>&, Groups, Scratch);
  void (*bass_uint8)(const Bass<uint8_t>&, Groups, Scratch);  // of floats only
};

/// The kernels of one instruction set.
struct Kernels {
  const char* name;
  int lanes;  // of floats
  const Fused<float>& (*of_floats)(int64_t height, int64_t width);
  const Fused<double>& of_doubles;

  // The parts, for tests. Lines of N complex numbers, re and im interleaved, `lanes` lines at a time.
  void (*fft_lanes)(int64_t size, bool inverse, const float* in, float* out);
  void (*any_fft_lanes)(int64_t size, bool inverse, const float* in, float* out);
  void (*any_fft_double_lanes)(int64_t size, bool inverse, const double* in, double* out);  // lanes / 2 lines
  void (*transpose_lanes)(const float* in, float* out);                                     // (lanes, lanes)
  void (*transpose_double_lanes)(const double* in, double* out);                            // (lanes / 2, lanes / 2)
  void (*log_lanes)(const float* in, float* out);                                           // (lanes)
};

/// The arguments of bass_gains for one profile.
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

/// The instruction set in FREQROB_ISA, else the widest one of this CPU; determined once.
const Kernels& active_kernels();

}  // namespace freqrob::cpu
