// Passes over the half spectra of planes of any size, between the transforms of torch.fft. A spectrum is
// (height, width/2 + 1) complex numbers, re and im interleaved; sums are accumulated in double precision.
#pragma once

#include <cmath>
#include <cstdint>

#include "../ring_geometry.h"

namespace freqrob::cpu {

/// Adds value(k) to its ring, once for every coefficient of the full spectrum: `sums` is (rings).
template <class Value>
void add_rings(const RingView& map, double* sums, Value value) {
  for (int64_t ring = 0; ring < map.rings; ++ring) sums[ring] = 0;
  const int64_t columns = map.columns();
  for (int64_t ky = 0; ky < map.height; ++ky) {
    for (int64_t kx = 0; kx < columns; ++kx) {
      const int64_t k = ky * columns + kx;
      if (map.half[k] >= 0) sums[map.half[k]] += multiplicity(kx, map.width) * static_cast<double>(value(k));
    }
  }
}

/// Re(x · ȳ), |x|² if both are one; in double precision, as the square of a float need not fit a float.
template <class T>
double real_product(const T* x, const T* y, int64_t k) {
  const double re = x[2 * k], im = x[2 * k + 1];
  return re * y[2 * k] + im * y[2 * k + 1];
}

template <class T>
void sum_rings(const RingView& map, const T* spectrum, bool amplitude, double* sums) {
  if (amplitude) {
    add_rings(map, sums, [=](int64_t k) { return std::sqrt(real_product(spectrum, spectrum, k)); });
  } else {
    add_rings(map, sums, [=](int64_t k) { return real_product(spectrum, spectrum, k); });
  }
}

/// Multiplies ring i by gains[i] and the coefficients on no ring by `outside`.
template <class T, class Gain>
void weigh_rings(const RingView& map, const Gain* gains, Gain outside, T* spectrum) {
  for (int64_t k = 0; k < map.height * map.columns(); ++k) {
    const T gain = static_cast<T>(map.half[k] >= 0 ? gains[map.half[k]] : outside);
    spectrum[2 * k] *= gain;
    spectrum[2 * k + 1] *= gain;
  }
}

}  // namespace freqrob::cpu
