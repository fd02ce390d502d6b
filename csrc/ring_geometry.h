// Properties of a ring map: multiplicities, counts, validity.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace freqrob {

/// Which ring each coefficient of rfft2 lies on: `half` is (height, width/2 + 1), with -1 for none.
struct RingView {
  const int32_t* half;
  int64_t height;
  int64_t width;
  int64_t rings;

  FREQROB_INLINE int64_t columns() const { return width / 2 + 1; }
};

/// How many coefficients of fft2 a coefficient in column `kx` of rfft2 represents: 1 or 2.
FREQROB_INLINE int multiplicity(int64_t kx, int64_t width) {
  return kx == 0 || 2 * kx == width ? 1 : 2;
}

/// Whether every entry names a ring below `rings` or none; kernels index by it unchecked.
FREQROB_INLINE bool is_valid(const RingView& map) {
  for (int64_t k = 0; k < map.height * map.columns(); ++k) {
    if (map.half[k] < -1 || map.half[k] >= map.rings) return false;
  }
  return true;
}

/// Whether every coefficient is on a ring.
FREQROB_INLINE bool covers_all(const RingView& map) {
  for (int64_t k = 0; k < map.height * map.columns(); ++k) {
    if (map.half[k] < 0) return false;
  }
  return true;
}

/// The number of coefficients of fft2 on each ring: `counts` is (rings).
FREQROB_INLINE void count_rings(const RingView& map, int64_t* counts) {
  for (int64_t ring = 0; ring < map.rings; ++ring) counts[ring] = 0;
  for (int64_t k = 0; k < map.height * map.columns(); ++k) {
    if (map.half[k] >= 0) counts[map.half[k]] += multiplicity(k % map.columns(), map.width);
  }
}

}  // namespace freqrob
