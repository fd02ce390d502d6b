// Parts of both kinds of fused kernels.
#pragma once

#include "../fft.h"
#include "../pixels.h"
#include "lanes.h"

namespace freqrob::cpu::FREQROB_ISA {
namespace {

using Spectrum = Complex<Lanes>;

/// Allocates parts of the scratch memory, or measures how much is needed.
class Memory {
 public:
  /// A Workspace(memory, map) in `scratch`, and how much that takes.
  template <class Workspace>
  static Workspace of(void* scratch, const RingView& map) {
    Memory memory(reinterpret_cast<uintptr_t>(scratch));
    return Workspace(memory, map);
  }

  template <class Workspace>
  static int64_t bytes_of(const RingView& map) {
    Memory memory(0);
    const Workspace unused(memory, map);
    return memory.next_;
  }

  template <class T>
  T* take(int64_t count) {
    const uintptr_t begin = next_;
    next_ += (count * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(begin);
  }

 private:
  explicit Memory(uintptr_t begin) : next_(begin) {}

  uintptr_t next_;
};

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

/// A filter multiplies a number z of a spectrum by the gain of its ring.
struct ByGain {
  static constexpr double unit(double pixels) { return 1 / pixels; }  // scale of the gains for the inverse transform

  template <class V>
  FREQROB_INLINE V operator()(V gain, const Complex<V>&) const {
    return gain;
  }
};

/// Multiplies by gain / |z|, without dividing by the number of pixels: the gradient of a weighted sum of amplitudes.
struct ByGainOverAmplitude {
  static constexpr double unit(double) { return 1; }

  template <class V>
  FREQROB_INLINE V operator()(V gain, const Complex<V>& z) const {
    const V square = power(z);
    return square > 0 ? gain / sqrt(square) : V{};
  }
};

struct Product {
  template <class V>
  FREQROB_INLINE V operator()(Complex<V> x, Complex<V> y) const {
    return x.re * y.re + x.im * y.im;
  }
};

/// How the bits of a float or a double are laid out.
template <class T>
struct Layout {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  static constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
  static constexpr Bits kMostExponent = sizeof(T) == 4 ? 255 : 2047;  // of infinity and NaN
};

/// Bits of the largest |x|; bits of positive floats compare as the floats do, with NaN above infinity.
template <class T>
typename Layout<T>::Bits magnitude(const T* x, int64_t count) {
  using Bits = typename Layout<T>::Bits;
  Bits largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Bits absolute = bit_cast<Bits>(x[i]) & ~(Bits(1) << (8 * sizeof(T) - 1));
    largest = absolute > largest ? absolute : largest;
  }
  return largest;
}

/// Power of two that brings the largest of `count` values into [1, 2), with its inverse; 0 and NaN unless all are
/// finite.
template <class T>
struct Normaliser {
  T scale, unscale;
};

template <class T>
FREQROB_INLINE Normaliser<T> normaliser(const T* x, int64_t count) {
  using Of = Layout<T>;
  typename Of::Bits exponent = magnitude(x, count) >> Of::kMantissa;
  if (exponent == Of::kMostExponent) return {T(0), T(__builtin_nanf(""))};
  if (exponent == 0) exponent = 1;  // zero or denormal
  if (exponent > Of::kMostExponent - 2) exponent = Of::kMostExponent - 2;
  return {bit_cast<T>((Of::kMostExponent - 1 - exponent) << Of::kMantissa), bit_cast<T>(exponent << Of::kMantissa)};
}

FREQROB_INLINE Normaliser<float> normaliser(const uint8_t*, int64_t) {
  return {1.0f, 1.0f};
}

/// The normaliser of a plane's weights, including `outside`.
template <class T>
FREQROB_INLINE Normaliser<T> weights_normaliser(const T* weights, int64_t rings, T outside) {
  const T magnitude = outside < 0 ? -outside : outside;
  const Normaliser<T> power = normaliser(weights, rings);
  return power.unscale < magnitude ? normaliser(&magnitude, 1) : power;
}

struct AsIs {
  template <class V>
  FREQROB_INLINE V operator()(V v) const {
    return v;
  }
};

template <class T>
struct Clipped {
  T white;

  template <class V>
  FREQROB_INLINE V operator()(V v) const {
    return clip(v, white);
  }
};

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA
