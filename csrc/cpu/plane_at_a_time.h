// The fused kernels that take one plane at a time. They serve planes so large that only one fits into the second-level
// cache, and rare sizes. They are templates over the class that transforms a plane: FixedSize or AnySize.
#pragma once

#include "../bass_gains.h"
#include "fused_parts.h"

namespace freqrob::cpu::FREQROB_ISA::plane_at_a_time {
namespace {

constexpr int64_t kPlanesPerMap = 4;

/// Hands out parts of the scratch memory, or measures how much of it there has to be.
class Memory {
 public:
  explicit Memory(void* begin) : next_(reinterpret_cast<uintptr_t>(begin)) {}

  template <class T>
  T* take(int64_t count) {
    const uintptr_t begin = next_;
    next_ += (count * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(begin);
  }

  int64_t used_from(const void* begin) const { return next_ - reinterpret_cast<uintptr_t>(begin); }

 private:
  uintptr_t next_;
};

/// How much scratch memory a Plane takes.
template <class Plane>
int64_t scratch_bytes(const RingView& map) {
  Memory memory(nullptr);
  const Plane plane(memory, map);
  return memory.used_from(nullptr);
}

/// Sums and gains of rings. Entry 0 is of the coefficients on no ring, 1 + i of ring i, rings + 1 of what is no
/// coefficient; every entry has a place for each lane, lest neighbours wait for each other.
template <class T>
struct RingTable {
  using V = Vector<T>;
  static constexpr int kLanes = kWidth<T>;

  RingView map;
  int32_t* entries;  // first place of the entry of each number of a spectrum
  double* sums;
  T* gains;

  RingTable(Memory& memory, const RingView& map, int64_t numbers)
      : map(map),
        entries(memory.take<int32_t>(numbers)),
        sums(memory.take<double>((map.rings + 2) * kLanes)),
        gains(memory.take<T>((map.rings + 2) * kLanes)) {}

  FREQROB_INLINE int32_t none() const { return (1 + map.rings) * kLanes; }
  FREQROB_INLINE int32_t entry(int64_t k) const { return (1 + map.half[k]) * kLanes; }

  /// Where rfft2 has the coefficient (ky, kx) or its mirror, 0 ≤ kx < width.
  FREQROB_INLINE int64_t half_index(int64_t ky, int64_t kx) const {
    if (kx < map.columns()) return ky * map.columns() + kx;
    return (ky == 0 ? 0 : map.height - ky) * map.columns() + map.width - kx;
  }

  void clear_sums() const {
    for (int64_t i = 0; i < (map.rings + 2) * kLanes; ++i) sums[i] = 0;
  }

  /// Adds the values of a vector whose entries are at `of`.
  FREQROB_INLINE void add(const int32_t* of, V value) const {
    T values[kLanes];
    store(values, value);
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) sums[of[l] + l] += values[l];
  }

  /// Of the full spectrum, if half of it has been added.
  double ring_sum(int64_t ring) const {
    double sum = 0;
    for (int l = 0; l < kLanes; ++l) sum += sums[(1 + ring) * kLanes + l];
    return 2 * sum;
  }

  /// Sets the gain of every ring to gain(i) and that of the coefficients on none, in the unit of Weigh.
  template <class Weigh, class Gain>
  void set_gains(Weigh, T outside, Gain gain) const {
    const T unit = static_cast<T>(Weigh::unit(map.height * map.width));
    gains[0] = outside * unit;
    for (int64_t ring = 0; ring < map.rings; ++ring) gains[(1 + ring) * kLanes] = gain(ring) * unit;
    gains[none()] = 1;
  }
};

template <class Plane>
FREQROB_INLINE void sum_rings(const Plane& plane, bool amplitude) {
  amplitude ? plane.sum(Amplitude{}, plane.first) : plane.sum(Power{}, plane.first);
}

template <class Plane, class T>
void ring_sum(const RingSum<T>& call, Groups planes, void* scratch) {
  Memory memory(scratch);
  const Plane work(memory, call.map);
  const int64_t pixels = call.map.height * call.map.width, rings = call.map.rings;
  work.prepare();
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const T* x = call.x + plane * pixels;
    const Normaliser<T> power = normaliser(x, pixels);
    const double unscale = power.unscale;
    work.load(x, power.scale, work.first);
    sum_rings(work, call.amplitude);
    T* out = call.out + plane * rings;
    for (int64_t ring = 0; ring < rings; ++ring) {
      out[ring] = static_cast<T>(work.rings.ring_sum(ring) * unscale * (call.amplitude ? 1 : unscale));
    }
  }
}

template <class Plane, class T, class Weigh>
void filter_planes(const RingFilter<T>& call, Groups planes, void* scratch, Weigh factor) {
  Memory memory(scratch);
  const Plane work(memory, call.map);
  const int64_t pixels = call.map.height * call.map.width, rings = call.map.rings;
  work.prepare();
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const T* x = call.x + plane * pixels;
    const T* weights = call.weights + plane * rings;
    const Normaliser<T> power = normaliser(x, pixels), weight = weights_normaliser(weights, rings, call.outside);
    const T unscale = call.over_amplitude ? power.unscale * power.scale : power.unscale;
    work.rings.set_gains(factor, call.outside * weight.scale,
                         [=](int64_t ring) { return weights[ring] * weight.scale; });
    work.load(x, power.scale, work.first);
    work.filter(work.first, factor);
    work.store(work.first, call.out + plane * pixels, unscale * weight.unscale, AsIs{});
  }
}

template <class Plane, class T>
void ring_filter(const RingFilter<T>& call, Groups planes, void* scratch) {
  if (call.over_amplitude) return filter_planes<Plane>(call, planes, scratch, ByGainOverAmplitude{});
  filter_planes<Plane>(call, planes, scratch, ByGain{});
}

template <class Plane, class T>
void ring_dot(const RingDot<T>& call, Groups planes, void* scratch) {
  Memory memory(scratch);
  const Plane work(memory, call.map);
  const int64_t pixels = call.map.height * call.map.width, rings = call.map.rings;
  work.prepare();
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const T* x = call.x + plane * pixels;
    const T* y = call.y + plane * pixels;
    const Normaliser<T> x_power = normaliser(x, pixels), y_power = normaliser(y, pixels);
    work.load(x, x_power.scale, work.first);
    work.load(y, y_power.scale, work.second);
    work.sum(Product{}, work.first, work.second);
    T* out = call.out + plane * rings;
    for (int64_t ring = 0; ring < rings; ++ring) {
      out[ring] = static_cast<T>(work.rings.ring_sum(ring) / pixels * x_power.unscale * y_power.unscale);
    }
  }
}

/// Sums in the order of a Plane's spectrum first, as the order of rfft2 would scatter every vector.
template <class Plane, class T>
void amplitude_map(const AmplitudeMap<T>& call, Groups maps, void* scratch) {
  Memory memory(scratch);
  const Plane work(memory, call.map);
  const int64_t pixels = call.map.height * call.map.width;
  work.prepare();
  double* const sums = reinterpret_cast<double*>(work.second);
  for (int64_t map = maps.begin; map < maps.end; ++map) {
    work.clear_amplitudes(sums);
    const int64_t first = map * kPlanesPerMap, last = first + kPlanesPerMap;
    for (int64_t plane = first; plane < last && plane < call.planes; ++plane) {
      const T* x = call.x + plane * pixels;
      const Normaliser<T> power = normaliser(x, pixels);
      work.load(x, power.scale, work.first);
      work.add_amplitudes(power.unscale, sums);
    }
    work.store_amplitudes(sums, call.out + map * call.map.height * call.map.columns());
  }
}

/// Leaves the gains of a summed plane; returns how many rings changed, NaN if the profile overflows.
template <class T, class Pixel>
double bass_gains_of(const RingTable<T>& rings, const Bass<Pixel>& call, double unscale) {
  const double amplitude = unscale * call.unit, unit = call.of_power ? amplitude * amplitude : amplitude;
  double* const profile = rings.sums;  // ring i of it lies below what ring i is summed from
  for (int64_t i = 0; i < call.map.rings; ++i) profile[i] = rings.ring_sum(i) * unit * call.norms[i];
  const auto total = bass_gains<ScalarMath>(profile, 1, call.weighable, call.map.rings, call.of_power);
  rings.set_gains(ByGain{}, T(1), [=](int64_t ring) { return static_cast<T>(profile[ring]); });
  return total.profile <= __DBL_MAX__ ? total.eligible : __builtin_nan("");
}

template <class Plane, class Pixel>
void bass(const Bass<Pixel>& call, Groups planes, void* scratch) {
  Memory memory(scratch);
  const Plane work(memory, call.map);
  const int64_t pixels = call.map.height * call.map.width;
  work.prepare();
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const Pixel* x = call.x + plane * pixels;
    Pixel* out = call.out + plane * pixels;
    const auto power = normaliser(x, pixels);
    work.load(x, power.scale, work.first);
    sum_rings(work, !call.of_power);
    const double changed = power.scale > 0 ? bass_gains_of(work.rings, call, power.unscale) : __builtin_nan("");
    if (!(changed >= 0)) {
      for (int64_t i = 0; i < pixels; ++i) out[i] = static_cast<Pixel>(__builtin_nanf(""));
    } else if (changed < 2) {  // unchanged by definition: it is copied, lest rounding change it
      if (out != x) __builtin_memcpy(out, x, pixels * sizeof(Pixel));
    } else {
      work.weigh(work.first, ByGain{});
      work.store(work.first, out, power.unscale, Clipped<decltype(power.scale)>{call.white});
    }
  }
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA::plane_at_a_time
