// What both kinds of fused kernels are made of.
#pragma once

#include "../fft.h"
#include "lanes.h"

namespace freqrob::cpu::FREQROB_ISA {
namespace {

using Spectrum = Complex<Lanes>;

/// Transforms a line of N = 32 or 64 in place.
template <int N, int Sign>
__attribute__((noinline)) void fft_line(Spectrum* line) {
  constexpr int kOuter = N / 8;
  fft<N, Sign, Lanes>(
      [line](int n, Spectrum* z) __attribute__((always_inline)) {
        FREQROB_UNROLL
        for (int m = 0; m < kOuter; ++m) z[m] = line[8 * m + n];
      },
      [line](int k, const Spectrum* z) __attribute__((always_inline)) {
        FREQROB_UNROLL
        for (int j = 0; j < 8; ++j) line[k + kOuter * j] = z[j];
      });
}

struct Power {
  template <class V>
  FREQROB_INLINE V operator()(Complex<V> z) const {
    return power(z);
  }
};

struct Amplitude {
  template <class V>
  FREQROB_INLINE V operator()(Complex<V> z) const {
    return sqrt(power(z));
  }
};

struct Product {
  template <class V>
  FREQROB_INLINE V operator()(Complex<V> x, Complex<V> y) const {
    return x.re * y.re + x.im * y.im;
  }
};

/// Bits of the largest |x|; bits of positive floats compare as the floats do, with NaN above infinity.
int32_t magnitude(const float* x, int64_t count) {
  using Bits = int32_t __attribute__((may_alias));
  const Bits* bits = reinterpret_cast<const Bits*>(x);
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t absolute = bits[i] & 0x7fffffff;
    largest = absolute > largest ? absolute : largest;
  }
  return largest;
}

FREQROB_INLINE float from_bits(int32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

/// Power of two that brings the largest of `count` values into [1, 2), with its inverse; 0 and NaN unless all are
/// finite.
struct Normaliser {
  float scale, unscale;
};

FREQROB_INLINE Normaliser normaliser(const float* x, int64_t count) {
  int32_t exponent = magnitude(x, count) >> 23;
  if (exponent == 255) return {0.0f, __builtin_nanf("")};
  if (exponent == 0) exponent = 1;  // zero or denormal: what its partner leaks into it is scaled away
  if (exponent > 253) exponent = 253;
  return {from_bits((254 - exponent) << 23), from_bits(exponent << 23)};
}

FREQROB_INLINE Normaliser normaliser(const uint8_t*, int64_t) {
  return {1.0f, 1.0f};
}

/// The normaliser of a plane's weights, `outside` with them.
FREQROB_INLINE Normaliser weights_normaliser(const float* weights, int64_t rings, float outside) {
  const float magnitude = __builtin_fabsf(outside);
  const Normaliser power = normaliser(weights, rings);
  return power.unscale < magnitude ? normaliser(&magnitude, 1) : power;
}

struct AsIs {
  FREQROB_INLINE Lanes operator()(Lanes v) const { return v; }
};

struct Clipped {
  float white;

  FREQROB_INLINE Lanes operator()(Lanes v) const { return clip(v, white); }
};

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA
