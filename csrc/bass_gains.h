// Balance Spectrum Sampling: the gain of every ring from the profile of a spectrum.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace freqrob {

/// The factor that turns the sum of |F| or |F|² over a ring of `count` coefficients, in pixels of 1 / `unit`, into a:
/// the mean of |F|, or the integral of |F|² over the angle, which is 2π times the mean of |F|².
template <class Real>
FREQROB_INLINE Real bass_norm(Real count, Real unit, bool of_power) {
  constexpr Real kTwoPi = static_cast<Real>(6.283185307179586);
  return (of_power ? kTwoPi * unit * unit : unit) / count;
}

/// Sums over the eligible rings of a plane; V is a scalar, or a vector with one plane to a lane.
template <class V>
struct BassTotals {
  V profile;      ///< Σ a
  V log_profile;  ///< Σ ln a
  V eligible;     ///< number of rings
};

/// A ring's contribution to the totals: nothing unless a > 1, so that every share of the logarithm is positive.
template <class Math, class V>
FREQROB_INLINE BassTotals<V> bass_share(V a) {
  const V none = {};
  const auto is_in = a > 1;
  const V logarithm = Math::log(a);
  return {is_in ? a : none, is_in ? logarithm : none, is_in ? none + 1 : none};
}

/// w = (ln a / Σ ln a) / (a / Σ a), from ln a / a and Σ a / Σ ln a, or √w; 1 for a ring with no share (quotient 0).
template <class Math, class V>
FREQROB_INLINE V bass_gain(V quotient, V ratio, bool of_power) {
  const V weight = quotient * ratio;
  const V gain = of_power ? Math::sqrt(weight) : weight;
  return quotient > 0 ? gain : V{} + 1;
}

/// Turns a profile a into gains of F in place, over the rings that may change (`weighable`); 1 elsewhere. a is the mean
/// amplitude of a ring, or with `of_power` 2π times its mean power, and then the gain is √w. Ring i is at
/// profile[stride · i].
///
/// Source: Lin et al., NeurIPS 2023, Eq. 1 and 4; zhiyugege/Frequency-Long-Tailed-Investigation, BaSS_cifar.py.
template <class Math, class V>
FREQROB_INLINE BassTotals<V> bass_gains(V* profile, int64_t stride, const bool* weighable, int64_t rings,
                                        bool of_power) {
  const V none = {};
  BassTotals<V> total = {none, none, none};
  for (int64_t i = 0; i < rings; ++i) {
    V& entry = profile[stride * i];
    const BassTotals<V> share = bass_share<Math>(entry);
    entry = none;
    if (!weighable[i]) continue;
    entry = share.eligible > 0 ? share.log_profile / share.profile : none;
    total.profile += share.profile;
    total.log_profile += share.log_profile;
    total.eligible += share.eligible;
  }
  const V ratio = total.profile / total.log_profile;
  for (int64_t i = 0; i < rings; ++i) profile[stride * i] = bass_gain<Math>(profile[stride * i], ratio, of_power);
  return total;
}

}  // namespace freqrob
