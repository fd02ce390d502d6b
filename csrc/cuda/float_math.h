// Functions of a float that a GPU has instructions for.
#pragma once

#include <cmath>
#include <cstdint>

#include "../fft.h"
#include "../host_device.h"

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
  constexpr float kUp = 1.2089258e24f, kDown = 8.2718061e-25f;  // 2^80 and its inverse
  const float square = power(z);
  if (square > 1e-30f && square < 1e38f) return FloatMath::sqrt(square);
  const float scale = square < 1 ? kUp : kDown, unscale = square < 1 ? kDown : kUp;
  return FloatMath::sqrt(power(z * scale)) * unscale;
}

}  // namespace freqrob
