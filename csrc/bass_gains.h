// Balance Spectrum Sampling: the gain of every ring from the profile of a spectrum.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace freqrob {

/// Sums over the eligible rings of a plane; V is a scalar, or a vector with one plane to a lane.
template <class V>
struct BassTotals {
  V profile;      ///< Σ a
  V log_profile;  ///< Σ ln a
  V eligible;     ///< how many rings
};

/// Turns a profile a into gains of F in place: w_i = (ln a_i / Σ ln a) / (a_i / Σ a) over the rings that may change
/// (`weighable`) and have a_i > 1, so that every share of the logarithm is positive; 1 elsewhere. a is of amplitudes,
/// or with `of_power` of powers, and then the gain is √w. Ring i is at profile[stride · i].
///
/// Source: Lin et al., NeurIPS 2023, Eq. 4; zhiyugege/Frequency-Long-Tailed-Investigation, BaSS_cifar.py.
template <class Math, class V>
FREQROB_INLINE BassTotals<V> bass_gains(V* profile, int64_t stride, const bool* weighable, int64_t rings,
                                        bool of_power) {
  const V none = {};
  BassTotals<V> total = {none, none, none};
  for (int64_t i = 0; i < rings; ++i) {
    V& entry = profile[stride * i];
    const V value = entry;
    const auto is_in = value > 1;
    const V logarithm = Math::log(value);
    entry = none;
    if (!weighable[i]) continue;
    entry = is_in ? logarithm / value : none;
    total.profile += is_in ? value : none;
    total.log_profile += is_in ? logarithm : none;
    total.eligible += is_in ? none + 1 : none;
  }
  const V ratio = total.profile / total.log_profile;
  for (int64_t i = 0; i < rings; ++i) {
    V& entry = profile[stride * i];
    const V gain = of_power ? Math::sqrt(entry * ratio) : entry * ratio;
    entry = entry > 0 ? gain : none + 1;
  }
  return total;
}

}  // namespace freqrob
