// The fused kernels that process one plane at a time: planes so large that only one fits into the second-level cache,
// and rare sizes. They are templates over the class that transforms a plane: FixedSize or AnySize.
#pragma once

#include "../bass_gains.h"
#include "fused_parts.h"

namespace freqrob::cpu::FREQROB_ISA::plane_at_a_time {
namespace {

constexpr int64_t kPlanesPerMap = 4;

/// The scratch memory that a Plane needs.
template <class Plane>
int64_t scratch_bytes(const RingView& map) {
  return Memory::bytes_of<Plane>(map);
}

/// Sums and gains of rings. Entry 0 is for coefficients on no ring, 1 + i for ring i, rings + 1 for padding; every
/// entry has a place for each lane, so that neighbours do not wait for each other.
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

  /// Sums over the full spectrum, after half of it has been added.
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

/// Transposes the squares of a band; `to` may be `from`.
template <class V>
FREQROB_INLINE void transpose_squares(const Complex<V>* from, Complex<V>* to, int64_t length) {
  constexpr int kSide = sizeof(V) / sizeof(V{}[0]);
  for (int64_t x = 0; x < length; x += kSide) {
    V block[kSide];
    FREQROB_UNROLL
    for (int l = 0; l < kSide; ++l) block[l] = from[x + l].re;
    transpose(block);
    FREQROB_UNROLL
    for (int l = 0; l < kSide; ++l) to[x + l].re = block[l];
    FREQROB_UNROLL
    for (int l = 0; l < kSide; ++l) block[l] = from[x + l].im;
    transpose(block);
    FREQROB_UNROLL
    for (int l = 0; l < kSide; ++l) to[x + l].im = block[l];
  }
}

/// Transforms the rows of spectra whose columns are transformed, and sums value(spectra…) over the rings.
template <class Plane, class Value, class... Spectra>
void sum_rings(const Plane& work, Value value, Spectra*... spectra) {
  work.rings.clear_sums();
  for (int64_t band = 0; band < work.bands; ++band) {
    (work.transform_rows(spectra + band * work.pitch), ...);
    work.sum_band(band, value, spectra + band * work.pitch...);
  }
}

template <class Plane>
void sum_rings(const Plane& work, bool amplitude) {
  amplitude ? sum_rings(work, Amplitude{}, work.first) : sum_rings(work, Power{}, work.first);
}

/// Weighs a spectrum by the gains of its rings and transforms its rows back; first forward, unless already done.
template <class Plane, class Weigh>
void weigh_rings(const Plane& work, Weigh factor, bool is_transformed) {
  for (int64_t index = 0; index < work.bands; ++index) {
    auto* const band = work.first + index * work.pitch;
    if (!is_transformed) work.transform_rows(band);
    work.weigh_band(index, band, factor);
    work.transform_rows_back(band);
  }
}

/// Reads a plane and transforms its columns; returns the scale that brought its pixels near 1, and its inverse.
template <class Plane, class Pixel, class Spectrum>
auto load_plane(const Plane& work, const Pixel* plane, Spectrum* spectrum) {
  const auto power = normaliser(plane, work.rings.map.height * work.rings.map.width);
  work.load(plane, power.scale, spectrum);
  return power;
}

/// Calls task(work, index of a plane, pixels before the plane).
template <class Plane, class Call, class Task>
void for_planes(const Call& call, Groups planes, Scratch scratch, Task task) {
  const Plane work = Memory::of<Plane>(scratch.memory, call.map);
  if (!scratch.is_prepared) work.prepare();
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    task(work, plane, plane * call.map.height * call.map.width);
  }
}

template <class Plane, class T>
void ring_sum(const RingSum<T>& call, Groups planes, Scratch scratch) {
  for_planes<Plane>(call, planes, scratch, [&](const Plane& work, int64_t plane, int64_t offset) {
    const double unscale = load_plane(work, call.x + offset, work.first).unscale;
    sum_rings(work, call.amplitude);
    T* const out = call.out + plane * call.map.rings;
    for (int64_t ring = 0; ring < call.map.rings; ++ring) {
      out[ring] = static_cast<T>(work.rings.ring_sum(ring) * unscale * (call.amplitude ? 1 : unscale));
    }
  });
}

template <class Plane, class T, class Weigh>
void filter_planes(const RingFilter<T>& call, Groups planes, Scratch scratch, Weigh factor) {
  for_planes<Plane>(call, planes, scratch, [&](const Plane& work, int64_t plane, int64_t offset) {
    const T* const weights = call.weights + plane * call.map.rings;
    const Normaliser<T> weight = weights_normaliser(weights, call.map.rings, call.outside);
    work.rings.set_gains(factor, call.outside * weight.scale,
                         [=](int64_t ring) { return weights[ring] * weight.scale; });
    const Normaliser<T> power = load_plane(work, call.x + offset, work.first);
    const T unscale = call.over_amplitude ? power.unscale * power.scale : power.unscale;
    weigh_rings(work, factor, false);
    work.store(work.first, call.out + offset, unscale * weight.unscale, AsIs{});
  });
}

template <class Plane, class T>
void ring_filter(const RingFilter<T>& call, Groups planes, Scratch scratch) {
  if (call.over_amplitude) return filter_planes<Plane>(call, planes, scratch, ByGainOverAmplitude{});
  filter_planes<Plane>(call, planes, scratch, ByGain{});
}

template <class Plane, class T>
void ring_dot(const RingDot<T>& call, Groups planes, Scratch scratch) {
  const int64_t pixels = call.map.height * call.map.width;
  for_planes<Plane>(call, planes, scratch, [&](const Plane& work, int64_t plane, int64_t offset) {
    const T x_unscale = load_plane(work, call.x + offset, work.first).unscale;
    const T y_unscale = load_plane(work, call.y + offset, work.second).unscale;
    sum_rings(work, Product{}, work.first, work.second);
    T* const out = call.out + plane * call.map.rings;
    for (int64_t ring = 0; ring < call.map.rings; ++ring) {
      out[ring] = static_cast<T>(work.rings.ring_sum(ring) / pixels * x_unscale * y_unscale);
    }
  });
}

/// Sums in the order of a Plane's spectrum first, as the order of rfft2 would scatter every vector.
template <class Plane, class T>
void amplitude_map(const AmplitudeMap<T>& call, Groups maps, Scratch scratch) {
  const Plane work = Memory::of<Plane>(scratch.memory, call.map);
  const int64_t pixels = call.map.height * call.map.width;
  if (!scratch.is_prepared) work.prepare();
  double* const sums = reinterpret_cast<double*>(work.second);
  for (int64_t map = maps.begin; map < maps.end; ++map) {
    work.clear_amplitudes(sums);
    const int64_t first = map * kPlanesPerMap, last = first + kPlanesPerMap;
    for (int64_t plane = first; plane < last && plane < call.planes; ++plane) {
      work.add_amplitudes(load_plane(work, call.x + plane * pixels, work.first).unscale, sums);
    }
    work.store_amplitudes(sums, call.out + map * call.map.height * call.map.columns());
  }
}

/// Leaves the gains of a summed plane; returns how many rings changed, NaN if the profile overflows.
template <class T, class Pixel>
double bass_gains_of(const RingTable<T>& rings, const Bass<Pixel>& call, double unscale) {
  const double amplitude = unscale * call.unit, unit = call.of_power ? amplitude * amplitude : amplitude;
  double* const profile = rings.sums;  // entry i precedes the sums of ring i
  for (int64_t i = 0; i < call.map.rings; ++i) profile[i] = rings.ring_sum(i) * unit * call.norms[i];
  const auto total = bass_gains<ScalarMath>(profile, 1, call.weighable, call.map.rings, call.of_power);
  rings.set_gains(ByGain{}, T(1), [=](int64_t ring) { return static_cast<T>(profile[ring]); });
  return total.profile <= __DBL_MAX__ ? total.eligible : __builtin_nan("");
}

template <class Plane, class Pixel>
void bass(const Bass<Pixel>& call, Groups planes, Scratch scratch) {
  const int64_t pixels = call.map.height * call.map.width;
  for_planes<Plane>(call, planes, scratch, [&](const Plane& work, int64_t, int64_t offset) {
    const Pixel* const x = call.x + offset;
    Pixel* const out = call.out + offset;
    const auto power = load_plane(work, x, work.first);
    sum_rings(work, !call.of_power);
    const double changed = power.scale > 0 ? bass_gains_of(work.rings, call, power.unscale) : __builtin_nan("");
    if (!(changed >= 0)) {
      for (int64_t i = 0; i < pixels; ++i) out[i] = static_cast<Pixel>(__builtin_nanf(""));
    } else if (changed < 2) {  // unchanged by definition: copied, because rounding would change it
      if (out != x) __builtin_memcpy(out, x, pixels * sizeof(Pixel));
    } else {
      weigh_rings(work, ByGain{}, true);
      work.store(work.first, out, power.unscale, Clipped<decltype(power.scale)>{call.white});
    }
  });
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA::plane_at_a_time
