// The gains of Balance Spectrum Sampling by a team of threads.
#pragma once

#include "../bass_gains.h"
#include "float_math.h"

namespace freqrob {

/// Input and output of a team for a plane's rings; each array has `rings` + 1 entries, the last of them for the
/// coefficients on no ring.
struct BassProfile {
  const int* multiplicity;  // how many coefficients of fft2 a ring has
  int rings;
  const float* sums;          // over each ring, of |F| or |F|²
  BassTotals<float>* shares;  // temporary
  float* gains;               // out
};

/// Gains of F; all are NaN if a sum is not finite. `unit` is the pixel scale of the logarithm over the value of white.
/// Returns whether the plane changes at all: with fewer than two rings to balance it does not.
template <class Team>
FREQROB_DEVICE bool bass_gains_of(Team team, const BassProfile& of, float unit, bool of_power) {
  team.each([&](int t) {
    for (int ring = t; ring <= of.rings; ring += Team::kThreads) {
      const bool may_change = 0 < ring && ring < of.rings - 1 && of.multiplicity[ring] > 0;
      const float norm = bass_norm<float>(of.multiplicity[ring], unit, of_power);
      of.shares[ring] = may_change ? bass_share<FloatMath>(of.sums[ring] * norm) : BassTotals<float>{};
    }
  });
  BassTotals<float> total = {};
  float sum = 0;
  for (int ring = 0; ring <= of.rings; ++ring) {
    total.profile += of.shares[ring].profile;
    total.log_profile += of.shares[ring].log_profile;
    total.eligible += of.shares[ring].eligible;
    sum += of.sums[ring];
  }
  const bool is_finite = is_number(sum) && is_number(total.profile);
  const float ratio = total.profile / total.log_profile;
  team.each([&](int t) {
    for (int ring = t; ring <= of.rings; ring += Team::kThreads) {
      const BassTotals<float> share = of.shares[ring];
      const float quotient = share.eligible > 0 ? share.log_profile / share.profile : 0.0f;
      of.gains[ring] = is_finite ? bass_gain<FloatMath>(quotient, ratio, of_power) : NAN;
    }
  });
  return !is_finite || total.eligible > 1;
}

}  // namespace freqrob
