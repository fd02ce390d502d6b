// Passes over spectra of planes of any size, between the transforms of cuFFT, by teams of threads. A spectrum is that
// of rfft2, (planes, height, columns) complex numbers with columns = width/2 + 1.
#pragma once

#include <cstdint>

#include "../fft.h"
#include "../pixels.h"
#include "../ring_geometry.h"
#include "bass_team.h"

namespace freqrob::passes {

/// The summand of a coefficient: |x|, or Re(x · ȳ), which is |x|² if both are one.
enum class Summand : int32_t { kAmplitude, kProduct };

/// Sums over rings, of each part of each plane.
struct RingSums {
  RingView map;
  const Complex<float>* x;  // (planes, height, columns)
  const Complex<float>* y;  // like x; read for products only
  float* out;               // (planes, parts, rings + 1): the last is of the coefficients on no ring
  int64_t planes;
  int64_t parts;
  Summand summand;
};

/// Shared memory of a team, for some of the rings at a time: a column of sums for each thread.
constexpr int kThreads = 64;
constexpr int kWindow = 176;

struct Sums {
  float of[kWindow * (kThreads + 1)];
};

FREQROB_DEVICE float summand(const RingSums& call, int64_t at) {
  const Complex<float> x = call.x[at];
  if (call.summand == Summand::kAmplitude) return amplitude(x);
  const Complex<float> y = call.y[at];
  return x.re * y.re + x.im * y.im;
}

/// The ring of an entry of a map; `rings` if the entry is -1 or not a ring of this map.
FREQROB_DEVICE int ring_at(const RingView& map, int64_t k) {
  const auto rings = static_cast<uint32_t>(map.rings), found = static_cast<uint32_t>(map.half[k]);
  return static_cast<int>(found < rings ? found : rings);
}

template <class Team>
FREQROB_DEVICE void run(Team team, const RingSums& call, int64_t plane, int64_t part, Sums& sums) {
  constexpr int kPitch = kThreads + 1;
  const auto columns = static_cast<uint32_t>(call.map.columns());
  const int64_t coefficients = call.map.height * columns;
  const int64_t begin = coefficients * part / call.parts, end = coefficients * (part + 1) / call.parts;
  const int rings = static_cast<int>(call.map.rings);
  for (int first = 0; first <= rings; first += kWindow) {
    const int window = rings + 1 - first < kWindow ? rings + 1 - first : kWindow;
    team.each([&](int t) {
      for (int i = t; i < window * kPitch; i += kThreads) sums.of[i] = 0;
    });
    team.each([&](int t) {
      for (int64_t k = begin + t; k < end; k += kThreads) {
        const int ring = ring_at(call.map, k) - first;
        if (ring < 0 || ring >= window) continue;
        const int times = multiplicity(static_cast<uint32_t>(k) % columns, call.map.width);
        sums.of[ring * kPitch + t] += times * summand(call, plane * coefficients + k);
      }
    });
    team.each([&](int t) {
      float* out = call.out + (plane * call.parts + part) * (rings + 1) + first;
      for (int ring = t; ring < window; ring += kThreads) {
        float sum = 0;
        for (int column = 0; column < kThreads; ++column) sum += sums.of[ring * kPitch + column];
        out[ring] = sum;
      }
    });
  }
}

/// The sum of a plane's parts, for one ring.
FREQROB_DEVICE float sum_parts(const RingSums& call, int64_t plane, int64_t ring) {
  float sum = 0;
  for (int64_t part = 0; part < call.parts; ++part) {
    sum += call.out[(plane * call.parts + part) * (call.map.rings + 1) + ring];
  }
  return sum;
}

/// Gains of BaSS, from sums of |F| or |F|².
struct BassGains {
  RingSums sums;
  const int* multiplicity;    // (rings + 1)
  BassTotals<float>* shares;  // (planes, rings + 1), temporary
  float* profile;             // (planes, rings + 1), temporary
  float* gains;               // (planes, rings + 1), out
  bool* changes;              // (planes), out: whether the plane changes
  float unit;
  bool of_power;
};

template <class Team>
FREQROB_DEVICE void run(Team team, const BassGains& call, int64_t plane) {
  const int rings = static_cast<int>(call.sums.map.rings);
  const int64_t row = plane * (rings + 1);
  team.each([&](int t) {
    for (int ring = t; ring <= rings; ring += Team::kThreads)
      call.profile[row + ring] = sum_parts(call.sums, plane, ring);
  });
  const BassProfile of = {call.multiplicity, rings, call.profile + row, call.shares + row, call.gains + row};
  const bool changes = bass_gains_of(team, of, call.unit, call.of_power);
  team.each([&](int t) {
    if (t == 0) call.changes[plane] = changes;
  });
}

/// Multiplies spectra by a gain for each ring, in place.
struct RingGains {
  RingView map;
  const float* gains;  // (planes, stride)
  int64_t stride;
  float outside;      // of the coefficients on no ring
  Complex<float>* x;  // (planes, height, columns)
  int64_t planes;
};

FREQROB_DEVICE void weigh(const RingGains& call, int64_t plane, int64_t k) {
  const int ring = ring_at(call.map, k);
  Complex<float>& z = call.x[plane * call.map.height * call.map.columns() + k];
  z = z * (ring < call.map.rings ? call.gains[plane * call.stride + ring] : call.outside);
}

/// The last step of BaSS: writes filtered planes as pixels, and unchanged planes as they were.
struct Pixels {
  const float* filtered;  // (planes, pixels)
  const void* x;          // like it
  void* out;              // like it
  const bool* changes;    // (planes)
  int64_t planes;
  int64_t pixels;
  PixelType type;
  float white;
};

FREQROB_DEVICE void store(const Pixels& call, int64_t plane, int64_t k) {
  const int64_t at = plane * call.pixels + k;
  for_pixels(call.type, [&]<class Pixel>(Pixel) {
    const Pixel before = static_cast<const Pixel*>(call.x)[at];
    const Pixel after = from_float<Pixel>(clip(call.filtered[at], call.white));
    static_cast<Pixel*>(call.out)[at] = call.changes[plane] ? after : before;
  });
}

/// Σ |F| over all planes, over their number.
struct MeanAmplitude {
  const Complex<float>* x;  // (planes, coefficients)
  float* out;               // (coefficients)
  int64_t planes;
  int64_t coefficients;
};

FREQROB_DEVICE void mean(const MeanAmplitude& call, int64_t k) {
  double sum = 0;
  for (int64_t plane = 0; plane < call.planes; ++plane) sum += amplitude(call.x[plane * call.coefficients + k]);
  call.out[k] = static_cast<float>(sum / call.planes);
}

}  // namespace freqrob::passes
