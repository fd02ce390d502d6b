// Transforms of any length, of floats or doubles, with one line to a lane.
#pragma once

#include <cmath>

#include "fused_parts.h"

namespace freqrob::cpu::FREQROB_ISA {
namespace {

/// exp(2πi k / n), 0 ≤ k < n, from an angle in the first octant.
Complex<double> root_of_unity(int64_t k, int64_t n) {
  const bool below = 2 * k > n;  // the real axis
  if (below) k = n - k;
  int64_t twice = 2 * k;  // the angle is π · twice / n
  const bool left = 2 * twice > n;
  if (left) twice = n - twice;
  const bool steep = 4 * twice > n;
  const double angle = 3.14159265358979323846 * (steep ? 0.5 * (n - 2 * twice) : twice) / n;
  const double cosine = std::cos(angle), sine = std::sin(angle);
  const Complex<double> root = steep ? Complex<double>{sine, cosine} : Complex<double>{cosine, sine};
  return {left ? -root.re : root.re, below ? -root.im : root.im};
}

/// Data for a transform of `length` values: exp(2πi k / length), and memory for one step.
template <class T>
struct Plan {
  int64_t length;
  Complex<T>* roots;
  Complex<Vector<T>>* room;

  void prepare() const {
    for (int64_t k = 0; k < length; ++k) {
      const Complex<double> root = root_of_unity(k, length);
      roots[k] = {static_cast<T>(root.re), static_cast<T>(root.im)};
    }
  }
};

/// The next factor of a length, at least 2: 4, 2 or odd.
FREQROB_INLINE int64_t next_factor(int64_t length) {
  if (length % 4 == 0) return 4;
  if (length % 2 == 0) return 2;
  for (int64_t factor = 3; factor * factor <= length; factor += 2) {
    if (length % factor == 0) return factor;
  }
  return length;
}

/// The number of steps of a transform.
FREQROB_INLINE int steps_of(int64_t length) {
  int steps = 0;
  for (; length > 1; length /= next_factor(length)) ++steps;
  return steps;
}

template <class V, class T>
FREQROB_INLINE Complex<V> turned(const Complex<V>& z, T cosine, T sine) {
  return {z.re * cosine - z.im * sine, z.re * sine + z.im * cosine};
}

/// Unnormalised transform of the odd number of `radix` values z(0), z(1), …: those at m and radix - m have conjugate
/// roots. Calls put(k, value).
template <int Sign, class V, class T, class Put>
FREQROB_INLINE void odd_radix(int64_t radix, const Plan<T>& plan, const Complex<V>* z, Complex<V>* sum, Put put) {
  const int64_t half = radix / 2, step = plan.length / radix;
  Complex<V>* const difference = sum + half + 1;
  Complex<V> total = z[0];
  for (int64_t m = 1; m <= half; ++m) {
    sum[m] = z[m] + z[radix - m];
    difference[m] = quarter_turn<Sign>(z[m] - z[radix - m]);
    total = total + sum[m];
  }
  put(0, total);
  for (int64_t k = 1; k <= half; ++k) {
    Complex<V> even = z[0], odd = {};
    int64_t at = 0;
    for (int64_t m = 1; m <= half; ++m) {
      at += k;
      if (at >= radix) at -= radix;
      const Complex<T> root = plan.roots[at * step];
      even = {even.re + sum[m].re * root.re, even.im + sum[m].im * root.re};
      odd = {odd.re + difference[m].re * root.im, odd.im + difference[m].im * root.im};
    }
    put(k, even + odd);
    put(radix - k, even - odd);
  }
}

/// Transforms of Radix values, or of `radix` odd ones if Radix is 0.
template <int Radix, int Sign, class V, class T, class Put>
FREQROB_INLINE void butterfly(int64_t radix, const Plan<T>& plan, Complex<V>* z, Put put) {
  if constexpr (Radix == 2) {
    put(0, z[0] + z[1]);
    put(1, z[0] - z[1]);
  } else if constexpr (Radix == 4) {
    radix4<Sign>(z[0], z[1], z[2], z[3]);
    FREQROB_UNROLL
    for (int k = 0; k < 4; ++k) put(k, z[k]);
  } else if constexpr (Radix == 0) {
    odd_radix<Sign>(radix, plan, z, z + radix, put);
  } else {
    Complex<V> room[Radix + 1];
    odd_radix<Sign>(Radix, plan, z, room, put);
  }
}

/// One step of a transform by Stockham's method: `stride` transforms of length/stride values each become
/// Radix · stride shorter ones.
template <int Radix, int Sign, class V, class T>
__attribute__((noinline)) void step(const Plan<T>& plan, int64_t any_radix, int64_t stride, const Complex<V>* from,
                                    Complex<V>* to) {
  const int64_t radix = Radix == 0 ? any_radix : Radix, count = plan.length / (radix * stride);
  Complex<V> own[Radix == 0 ? 1 : Radix];
  Complex<V>* const z = Radix == 0 ? plan.room : own;
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t q = 0; q < stride; ++q) {
      FREQROB_UNROLL
      for (int64_t i = 0; i < radix; ++i) z[i] = from[q + stride * (p + count * i)];
      Complex<V>* const out = to + q + stride * radix * p;
      butterfly<Radix, Sign>(radix, plan, z,
                             [=, &plan](int64_t i, const Complex<V>& value) __attribute__((always_inline)) {
                               const Complex<T> root = plan.roots[p * i * stride];
                               out[stride * i] = turned(value, root.re, Sign * root.im);
                             });
    }
  }
}

/// Unnormalised transform of the values in `from`, with `other` as temporary memory; returns the one that holds the
/// result: `from` if the number of steps is even.
template <int Sign, class V, class T>
Complex<V>* any_fft(const Plan<T>& plan, Complex<V>* from, Complex<V>* other) {
  int64_t radix = 0;
  for (int64_t left = plan.length, stride = 1; left > 1; left /= radix, stride *= radix) {
    radix = next_factor(left);
    const auto take = radix == 4   ? step<4, Sign, V, T>
                      : radix == 2 ? step<2, Sign, V, T>
                      : radix == 3 ? step<3, Sign, V, T>
                      : radix == 5 ? step<5, Sign, V, T>
                      : radix == 7 ? step<7, Sign, V, T>
                                   : step<0, Sign, V, T>;
    take(plan, radix, stride, from, other);
    Complex<V>* const taken = from;
    from = other;
    other = taken;
  }
  return from;
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA
