// The table of one instruction set's kernels. Included once by each instruction set's file after its target pragma.
#pragma once

#include "any_size.h"
#include "few_planes.h"
#include "fixed_size.h"
namespace freqrob::cpu::FREQROB_ISA {
namespace {

template <int N>
constexpr Fused<float> kPlanePerLane = {
    .planes_per_group = kLanes,
    .planes_per_map = kGroupsPerMap * kLanes,
    .scratch_bytes = few_planes::scratch_bytes<N>,
    .ring_sum = few_planes::by_number<N, RingSum<float>, ring_sum<N>, few_planes::ring_sum<N>>,
    .ring_filter = few_planes::by_number<N, RingFilter<float>, ring_filter<N>, few_planes::ring_filter<N>>,
    .ring_dot = few_planes::by_number<N, RingDot<float>, ring_dot<N>, few_planes::ring_dot<N>>,
    .amplitude_map = amplitude_map<N>,
    .bass = few_planes::by_number<N, Bass<float>, bass<N, float>, few_planes::bass<N, float>>,
    .bass_uint8 = few_planes::by_number<N, Bass<uint8_t>, bass<N, uint8_t>, few_planes::bass<N, uint8_t>>,
};

template <class Plane, class T>
constexpr Fused<T> kPlaneAtATime = {
    .planes_per_group = 1,
    .planes_per_map = plane_at_a_time::kPlanesPerMap,
    .scratch_bytes = plane_at_a_time::scratch_bytes<Plane>,
    .ring_sum = plane_at_a_time::ring_sum<Plane, T>,
    .ring_filter = plane_at_a_time::ring_filter<Plane, T>,
    .ring_dot = plane_at_a_time::ring_dot<Plane, T>,
    .amplitude_map = plane_at_a_time::amplitude_map<Plane, T>,
    .bass = plane_at_a_time::bass<Plane, T>,
    .bass_uint8 = nullptr,
};

template <class Plane>
constexpr Fused<float> kFloatsAtATime = [] {
  Fused<float> kernels = kPlaneAtATime<Plane, float>;
  kernels.bass_uint8 = plane_at_a_time::bass<Plane, uint8_t>;
  return kernels;
}();

const Fused<float>& of_floats(int64_t height, int64_t width) {
  using namespace plane_at_a_time;
  if (height == width && width == 32) return kPlanePerLane<32>;
  if (height == width && width == 64) return kPlanePerLane<64>;
  if (height == width && width == 224) return kFloatsAtATime<FixedSize<224>>;
  return kFloatsAtATime<AnySize<float>>;
}

// What follows is for tests.

template <int N>
void fft_lines(bool inverse, Spectrum* line) {
  inverse ? fft_line<N, 1>(line) : fft_line<N, -1>(line);
}

template <int N>
void long_fft_lines(bool inverse, Spectrum* line) {
  Spectrum other[N];
  if (inverse) {
    for (int k = 0; k < N; ++k) other[position<N>(k)] = line[k];
    transform_back<N>(other, [=](int n, Spectrum value) { line[n] = value; });
  } else {
    transform<N>(other, [=](int n) { return line[n]; });
    for (int k = 0; k < N; ++k) line[k] = other[position<N>(k)];
  }
}

/// Spreads lines over lanes, calls task(line) and collects them.
template <class T, class Task>
void with_lanes(int64_t size, const T* in, T* out, Task task) {
  constexpr int kMost = 1024;
  static thread_local Complex<Vector<T>> line[kMost];
  for (int64_t n = 0; n < size; ++n) {
    for (int l = 0; l < kWidth<T>; ++l) {
      line[n].re[l] = in[2 * (l * size + n)];
      line[n].im[l] = in[2 * (l * size + n) + 1];
    }
  }
  const Complex<Vector<T>>* const done = task(line);
  for (int64_t n = 0; n < size; ++n) {
    for (int l = 0; l < kWidth<T>; ++l) {
      out[2 * (l * size + n)] = done[n].re[l];
      out[2 * (l * size + n) + 1] = done[n].im[l];
    }
  }
}

void fft_lanes(int64_t size, bool inverse, const float* in, float* out) {
  with_lanes(size, in, out, [=](Spectrum* line) {
    if (size == 32) fft_lines<32>(inverse, line);
    if (size == 64) fft_lines<64>(inverse, line);
    if (size == 224) long_fft_lines<224>(inverse, line);
    return line;
  });
}

template <class T>
void any_fft_lanes(int64_t size, bool inverse, const T* in, T* out) {
  constexpr int kMost = 1024;
  static thread_local Complex<Vector<T>> other[kMost], room[2 * kMost + 1];
  static thread_local Complex<T> roots[kMost];
  const Plan<T> plan = {size, roots, room};
  plan.prepare();
  with_lanes(size, in, out, [=, &plan](Complex<Vector<T>>* line) {
    return inverse ? any_fft<1>(plan, line, other) : any_fft<-1>(plan, line, other);
  });
}

template <class T>
void transpose_lanes(const T* in, T* out) {
  Vector<T> rows[kWidth<T>];
  for (int l = 0; l < kWidth<T>; ++l) rows[l] = load(in + l * kWidth<T>);
  transpose(rows);
  for (int l = 0; l < kWidth<T>; ++l) store(out + l * kWidth<T>, rows[l]);
}

void log_lanes(const float* in, float* out) {
  store(out, log(load(in)));
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA

#define FREQROB_JOIN_(a, b) a##b
#define FREQROB_JOIN(a, b) FREQROB_JOIN_(a, b)
#define FREQROB_STRING_(a) #a
#define FREQROB_STRING(a) FREQROB_STRING_(a)

namespace freqrob::cpu {

const Kernels& FREQROB_JOIN(FREQROB_ISA, _kernels)() {
  using namespace FREQROB_ISA;
  static constexpr Kernels kernels = {
      .name = FREQROB_STRING(FREQROB_ISA),
      .lanes = kLanes,
      .of_floats = of_floats,
      .of_doubles = kPlaneAtATime<plane_at_a_time::AnySize<double>, double>,
      .fft_lanes = fft_lanes,
      .any_fft_lanes = any_fft_lanes<float>,
      .any_fft_double_lanes = any_fft_lanes<double>,
      .transpose_lanes = transpose_lanes<float>,
      .transpose_double_lanes = transpose_lanes<double>,
      .log_lanes = log_lanes,
  };
  return kernels;
}

}  // namespace freqrob::cpu
