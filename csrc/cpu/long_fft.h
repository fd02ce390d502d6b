// Transforms of R · 32 values, R odd (224), in place and with one line to a lane.
#pragma once

#include "fused_parts.h"

namespace freqrob::cpu::FREQROB_ISA {
namespace {

/// exp(i x), |x| ≤ 2π, by its series.
consteval Complex<double> unit(double x) {
  Complex<double> sum = {1, 0}, term = {1, 0};
  for (int n = 1; n < 64; ++n) {
    term = {-term.im * x / n, term.re * x / n};
    sum = {sum.re + term.re, sum.im + term.im};
  }
  return sum;
}

/// exp(2πi k / N).
template <int N>
struct Roots {
  float cosine[N], sine[N];

  consteval Roots() : cosine(), sine() {
    for (int k = 0; k < N; ++k) {
      const Complex<double> root = unit(2 * 3.14159265358979323846 * (2 * k > N ? k - N : k) / N);
      cosine[k] = static_cast<float>(root.re);
      sine[k] = static_cast<float>(root.im);
    }
  }
};

template <int N>
constexpr Roots<N> kRoots{};

template <int Sign, int N>
FREQROB_INLINE Spectrum turn(Spectrum z, int k) {
  const float cosine = kRoots<N>.cosine[k], sine = Sign * kRoots<N>.sine[k];
  return {z.re * cosine - z.im * sine, z.re * sine + z.im * cosine};
}

/// Unnormalised transform of R values, R odd: those at m and R - m have conjugate roots.
template <int R, int Sign>
FREQROB_INLINE void odd_radix(Spectrum* z) {
  constexpr int kHalf = R / 2;
  const Spectrum first = z[0];
  Spectrum sum[kHalf + 1], turned[kHalf + 1];
  FREQROB_UNROLL
  for (int m = 1; m <= kHalf; ++m) {
    sum[m] = z[m] + z[R - m];
    turned[m] = quarter_turn<Sign>(z[m] - z[R - m]);
    z[0] = z[0] + sum[m];
  }
  FREQROB_UNROLL
  for (int k = 1; k <= kHalf; ++k) {
    Spectrum even = first, odd = {};
    FREQROB_UNROLL
    for (int m = 1; m <= kHalf; ++m) {
      const float cosine = kRoots<R>.cosine[k * m % R], sine = kRoots<R>.sine[k * m % R];
      even = {even.re + sum[m].re * cosine, even.im + sum[m].im * cosine};
      odd = {odd.re + turned[m].re * sine, odd.im + turned[m].im * sine};
    }
    z[k] = even + odd;
    z[R - k] = even - odd;
  }
}

/// Where a transformed line of N holds each coefficient.
template <int N>
constexpr int position(int frequency) {
  constexpr int kRadix = N / 32;
  return frequency % kRadix * 32 + frequency / kRadix;
}

/// Transforms the values read(0) … read(N - 1) forward into `line`, coefficient k at position<N>(k).
template <int N, class Read>
FREQROB_INLINE void transform(Spectrum* line, Read read) {
  constexpr int kRadix = N / 32;
  for (int n = 0; n < 32; ++n) {
    Spectrum z[kRadix];
    FREQROB_UNROLL
    for (int m = 0; m < kRadix; ++m) z[m] = read(32 * m + n);
    odd_radix<kRadix, -1>(z);
    line[n] = z[0];
    FREQROB_UNROLL
    for (int k = 1; k < kRadix; ++k) line[32 * k + n] = turn<-1, N>(z[k], n * k);
  }
  for (int k = 0; k < kRadix; ++k) fft_line<32, -1>(line + 32 * k);
}

/// Transforms such a line back, unnormalised, and calls write(n, value) on every value; overwrites the line.
template <int N, class Write>
FREQROB_INLINE void transform_back(Spectrum* line, Write write) {
  constexpr int kRadix = N / 32;
  for (int k = 0; k < kRadix; ++k) fft_line<32, 1>(line + 32 * k);
  for (int n = 0; n < 32; ++n) {
    Spectrum z[kRadix];
    z[0] = line[n];
    FREQROB_UNROLL
    for (int k = 1; k < kRadix; ++k) z[k] = turn<1, N>(line[32 * k + n], n * k);
    odd_radix<kRadix, 1>(z);
    FREQROB_UNROLL
    for (int m = 0; m < kRadix; ++m) write(32 * m + n, z[m]);
  }
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA
