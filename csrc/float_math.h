// Functions of a float that a GPU has instructions for.
#pragma once

#include <cmath>
#include <cstdint>

#include "fft.h"
#include "host_device.h"

namespace freqrob {

struct FloatMath {
  static FREQROB_DEVICE float log(float v) { return logf(v); }

  /// v ≥ 0, to 2 ulp.
  static FREQROB_DEVICE float sqrt(float v) {
#ifdef __CUDA_ARCH__
    return v > 0 ? v * rsqrtf(v) : v;
#else
    return sqrtf(v);
#endif
  }

  /// exp(2πi turns).
  static FREQROB_DEVICE Complex<float> unit(float turns) {
#ifdef __CUDA_ARCH__
    Complex<float> z;
    sincospif(2 * turns, &z.im, &z.re);
    return z;
#else
    return {cosf(6.28318530717958648f * turns), sinf(6.28318530717958648f * turns)};
#endif
  }
};

/// Neither infinite nor NaN.
FREQROB_DEVICE bool is_number(float v) {
  return v - v == 0;
}

/// |z|, also where its square is too large or too small for a float.
FREQROB_DEVICE float amplitude(Complex<float> z) {
  const float square = power(z);
  return square > 1e-30f && square < 1e38f ? FloatMath::sqrt(square) : hypotf(z.re, z.im);
}

}  // namespace freqrob
