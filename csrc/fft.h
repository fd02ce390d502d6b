// Small complex Fourier transforms on values of any arithmetic type: a float, or a vector with one image to a lane.
#pragma once

#include "host_device.h"

namespace freqrob {

template <class V>
struct Complex {
  V re, im;
};

template <class V>
FREQROB_INLINE Complex<V> operator+(Complex<V> a, Complex<V> b) {
  return {a.re + b.re, a.im + b.im};
}

template <class V>
FREQROB_INLINE Complex<V> operator-(Complex<V> a, Complex<V> b) {
  return {a.re - b.re, a.im - b.im};
}

template <class V>
FREQROB_INLINE Complex<V> operator*(Complex<V> a, Complex<V> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

template <class V>
FREQROB_INLINE Complex<V> operator*(Complex<V> a, V b) {
  return {a.re * b, a.im * b};
}

template <class V>
FREQROB_INLINE V power(Complex<V> a) {
  return a.re * a.re + a.im * a.im;
}

/// z · exp(Sign · i π/2).
template <int Sign, class V>
FREQROB_INLINE Complex<V> quarter_turn(Complex<V> z) {
  if constexpr (Sign > 0) return {-z.im, z.re};
  return {z.im, -z.re};
}

/// cos(2π k / 64), any k ≥ 0; the table is a quarter of the wave.
FREQROB_INLINE constexpr float cosine64(int k) {
  constexpr float kQuarter[17] = {1.0f,         0.995184727f, 0.980785280f, 0.956940336f,  0.923879533f, 0.881921264f,
                                  0.831469612f, 0.773010453f, 0.707106781f, 0.634393284f,  0.555570233f, 0.471396737f,
                                  0.382683432f, 0.290284677f, 0.195090322f, 0.0980171403f, 0.0f};
  k %= 64;
  if (k > 32) k = 64 - k;
  return k <= 16 ? kQuarter[k] : -kQuarter[32 - k];
}

/// z · exp(Sign · 2πi k / N), N a divisor of 64.
template <int N, int Sign, class V>
FREQROB_INLINE Complex<V> twiddle(Complex<V> z, int k) {
  if (k == 0) return z;
  const float cosine = cosine64(64 / N * k);
  const float sine = Sign * cosine64(64 / N * k + 48);
  return {z.re * cosine - z.im * sine, z.re * sine + z.im * cosine};
}

template <int Sign, class V>
FREQROB_INLINE void radix4(Complex<V>& a, Complex<V>& b, Complex<V>& c, Complex<V>& d) {
  const Complex<V> even_sum = a + c, even_difference = a - c;
  const Complex<V> odd_sum = b + d, odd_difference = quarter_turn<Sign>(b - d);
  a = even_sum + odd_sum;
  b = even_difference + odd_difference;
  c = even_sum - odd_sum;
  d = even_difference - odd_difference;
}

template <int Sign, class V>
FREQROB_INLINE void radix8(Complex<V>* z) {
  Complex<V> even[4] = {z[0], z[2], z[4], z[6]};
  Complex<V> odd[4] = {z[1], z[3], z[5], z[7]};
  radix4<Sign>(even[0], even[1], even[2], even[3]);
  radix4<Sign>(odd[0], odd[1], odd[2], odd[3]);
  odd[1] = twiddle<8, Sign>(odd[1], 1);
  odd[2] = quarter_turn<Sign>(odd[2]);
  odd[3] = twiddle<8, Sign>(odd[3], 3);
  FREQROB_UNROLL
  for (int k = 0; k < 4; ++k) {
    z[k] = even[k] + odd[k];
    z[k + 4] = even[k] - odd[k];
  }
}

/// Unnormalised transform of 4 or 8 values in place.
template <int N, int Sign, class V>
FREQROB_INLINE void radix(Complex<V>* z) {
  static_assert(N == 4 || N == 8);
  if constexpr (N == 4) {
    radix4<Sign>(z[0], z[1], z[2], z[3]);
  } else {
    radix8<Sign>(z);
  }
}

/// Unnormalised transform of N = 32 or 64 values, Sign -1 forward and +1 inverse, in two steps N = (N/8) · 8.
/// `load(n, z)` gives z the values n, 8 + n, 16 + n, …; `store(k, z)` takes the eight at k, N/8 + k, 2N/8 + k, … from
/// it.
template <int N, int Sign, class V, class Load, class Store>
FREQROB_INLINE void fft(Load load, Store store) {
  constexpr int kOuter = N / 8;
  Complex<V> partial[kOuter][8];
  FREQROB_UNROLL
  for (int n = 0; n < 8; ++n) {
    Complex<V> z[kOuter];
    load(n, z);
    radix<kOuter, Sign>(z);
    FREQROB_UNROLL
    for (int k = 0; k < kOuter; ++k) partial[k][n] = twiddle<N, Sign>(z[k], n * k);
  }
  FREQROB_UNROLL
  for (int k = 0; k < kOuter; ++k) {
    radix8<Sign>(partial[k]);
    store(k, partial[k]);
  }
}

/// Twice the spectra of the two real images a and b at one coefficient.
template <class V>
struct TwinSpectra {
  Complex<V> a, b;
};

/// Separates the spectrum of a + ib: z is its value at k, mirror that at -k.
template <class V>
FREQROB_INLINE TwinSpectra<V> separate(Complex<V> z, Complex<V> mirror) {
  return {{z.re + mirror.re, z.im - mirror.im}, {z.im + mirror.im, mirror.re - z.re}};
}

/// Multiplies a's spectrum by common + difference and b's by common - difference, at k and at -k.
template <class V>
FREQROB_INLINE void weigh(Complex<V>& z, Complex<V>& mirror, V common, V difference) {
  const Complex<V> before = z;
  z = {common * z.re + difference * mirror.re, common * z.im - difference * mirror.im};
  mirror = {common * mirror.re + difference * before.re, common * mirror.im - difference * before.im};
}

}  // namespace freqrob
