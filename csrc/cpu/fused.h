// The fused kernels: transform, rings and inverse transform of a group of planes with one read and one write of the
// images. Two planes share a complex lane, a + ib, and are told apart by the mirror of their spectrum.
// Included once by each instruction set's file after its target pragma.
#pragma once

#include "../bass_gains.h"
#include "fused_parts.h"

namespace freqrob::cpu::FREQROB_ISA {
namespace {

/// Of a group: plane l is the real part of lane l, plane kLanes + l the imaginary part.
constexpr int64_t kPlanes = 2 * kLanes;
constexpr int64_t kLargest = 64;

/// Rows are padded: a power of two as the distance between them would put a column into one cache set.
template <int N>
constexpr int64_t kStride = N + 1;

/// One value for each plane of a group.
struct Twin {
  Lanes a, b;
};

FREQROB_INLINE Twin operator*(Twin x, Twin y) {
  return {x.a * y.a, x.b * y.b};
}
FREQROB_INLINE Twin operator*(Twin x, float y) {
  return {x.a * y, x.b * y};
}

FREQROB_INLINE void set(Twin& twin, int64_t plane, float value) {
  (plane < kLanes ? twin.a : twin.b)[plane % kLanes] = value;
}

FREQROB_INLINE float get(const Twin& twin, int64_t plane) {
  return (plane < kLanes ? twin.a : twin.b)[plane % kLanes];
}

constexpr Twin kOnes = {Lanes{} + 1.0f, Lanes{} + 1.0f};

/// The planes of a group and the powers of two that bring each near 1, so that neither drowns its partner.
template <class Pixel>
struct Group {
  const Pixel* source[kPlanes];
  int64_t planes;
  Twin scale = kOnes;
  Twin unscale = kOnes;  // NaN for a plane that is not finite: it is computed as zero and comes out as NaN
};

alignas(64) const float kZeros[kLargest * kLargest] = {};

FREQROB_INLINE void normalise(Group<float>& group, int64_t plane, int64_t pixels) {
  const Normaliser power = normaliser(group.source[plane], pixels);
  if (power.scale == 0.0f) group.source[plane] = kZeros;
  set(group.scale, plane, power.scale);
  set(group.unscale, plane, power.unscale);
}

FREQROB_INLINE void normalise(Group<uint8_t>&, int64_t, int64_t) {}

template <int N, class Pixel>
Group<Pixel> gather(const Pixel* x, int64_t planes, int64_t index) {
  Group<Pixel> group;
  const int64_t first = index * kPlanes;
  group.planes = planes - first < kPlanes ? planes - first : kPlanes;
  for (int64_t plane = 0; plane < kPlanes; ++plane) {
    group.source[plane] = reinterpret_cast<const Pixel*>(kZeros);
    if (plane >= group.planes) {
      set(group.unscale, plane, 0.0f);  // sums over the group must not count what leaks into no plane
      continue;
    }
    group.source[plane] = x + (first + plane) * N * N;
    normalise(group, plane, N * N);
  }
  return group;
}

/// Where lane l has the pixel (y, x): its plane is rolled by l rows. Planes are a multiple of 1 KiB apart, and rows
/// alike of many planes would share one cache set; what the kernels compute does not depend on the roll.
template <int N>
FREQROB_INLINE int64_t rolled(uint32_t y, uint32_t x, int l) {
  return (y + l) % N * N + x;
}

/// Reads kLanes pixels of as many planes; value l of the result holds pixel l, with one plane to a lane.
template <int N, class Pixel>
FREQROB_INLINE void load_block(const Pixel* const* source, int64_t y, int64_t x, Lanes* block) {
  FREQROB_UNROLL
  for (int l = 0; l < kLanes; ++l) block[l] = load(source[l] + rolled<N>(y, x, l));
  transpose(block);
}

template <int N, class Pixel>
FREQROB_INLINE void store_block(Pixel* const* target, int64_t y, int64_t x, Lanes* block) {
  transpose(block);
  FREQROB_UNROLL
  for (int l = 0; l < kLanes; ++l) store(target[l] + rolled<N>(y, x, l), block[l]);
}

/// Reads the planes and transforms their rows.
template <int N, class Pixel>
void load_rows(const Group<Pixel>& group, Spectrum* spectrum) {
  for (int64_t y = 0; y < N; ++y) {
    Spectrum* row = spectrum + y * kStride<N>;
    for (int64_t x = 0; x < N; x += kLanes) {
      Lanes block[kLanes];
      load_block<N>(group.source, y, x, block);
      FREQROB_UNROLL
      for (int l = 0; l < kLanes; ++l) row[x + l].re = block[l] * group.scale.a;
      load_block<N>(group.source + kLanes, y, x, block);
      FREQROB_UNROLL
      for (int l = 0; l < kLanes; ++l) row[x + l].im = block[l] * group.scale.b;
    }
    fft_line<N, -1, 1>(row);
  }
}

/// Transforms the rows back and writes finish(value) to the planes.
template <int N, class Pixel, class Finish>
void store_rows(Spectrum* spectrum, Pixel* const* target, Twin unscale, Finish finish) {
  for (int64_t y = 0; y < N; ++y) {
    Spectrum* row = spectrum + y * kStride<N>;
    fft_line<N, 1, 1>(row);
    for (int64_t x = 0; x < N; x += kLanes) {
      Lanes block[kLanes];
      FREQROB_UNROLL
      for (int l = 0; l < kLanes; ++l) block[l] = finish(row[x + l].re * unscale.a);
      store_block<N>(target, y, x, block);
      FREQROB_UNROLL
      for (int l = 0; l < kLanes; ++l) block[l] = finish(row[x + l].im * unscale.b);
      store_block<N>(target + kLanes, y, x, block);
    }
  }
}

/// Calls visit(kx, mirror) on each column of the half spectrum and the column that holds its mirror: together they
/// are small enough to stay in the first-level cache while they are transformed and used.
template <int N, class Visit>
FREQROB_INLINE void for_each_column(Visit visit) {
  for (int64_t kx = 0; kx <= N / 2; ++kx) visit(kx, (N - kx) % N);
}

template <int N, int Sign>
FREQROB_INLINE void fft_columns(Spectrum* spectrum, int64_t kx, int64_t mirror) {
  fft_line<N, Sign, kStride<N>>(spectrum + kx);
  if (mirror != kx) fft_line<N, Sign, kStride<N>>(spectrum + mirror);
}

template <int N>
void fft_all_columns(Spectrum* spectrum) {
  for (int64_t kx = 0; kx < N; ++kx) fft_line<N, -1, kStride<N>>(spectrum + kx);
}

/// Twice the spectra of both planes at (ky, kx).
template <int N>
FREQROB_INLINE TwinSpectra<Lanes> spectra_at(const Spectrum* spectrum, int64_t ky, int64_t kx, int64_t mirror) {
  return separate(spectrum[ky * kStride<N> + kx], spectrum[(N - ky) % N * kStride<N> + mirror]);
}

/// Transforms the columns and calls visit(ky, kx, twice the spectra) on the half spectrum.
template <int N, class Visit>
FREQROB_INLINE void visit_spectrum(Spectrum* spectrum, Visit visit) {
  for_each_column<N>([&](int64_t kx, int64_t mirror) __attribute__((always_inline)) {
    fft_columns<N, -1>(spectrum, kx, mirror);
    for (int64_t ky = 0; ky < N; ++ky) visit(ky, kx, spectra_at<N>(spectrum, ky, kx, mirror));
  });
}

/// Sums of |2F|² or |2F| over the rings: rings[1 + i] of ring i, rings[0] of the coefficients on none.
template <int N, bool Amplitude>
void sum_rings(Spectrum* spectrum, const RingView& map, Twin* rings) {
  for (int64_t i = 0; i <= map.rings; ++i) rings[i] = Twin{};
  visit_spectrum<N>(spectrum, [&](int64_t ky, int64_t kx, TwinSpectra<Lanes> twice) __attribute__((always_inline)) {
    const float times = multiplicity(kx, N);
    Twin& ring = rings[1 + map.half[ky * (N / 2 + 1) + kx]];
    if constexpr (Amplitude) {
      ring.a += sqrt(power(twice.a)) * times;
      ring.b += sqrt(power(twice.b)) * times;
    } else {
      ring.a += power(twice.a) * times;
      ring.b += power(twice.b) * times;
    }
  });
}

template <int N>
void sum_rings(Spectrum* spectrum, const RingView& map, Twin* rings, bool amplitude) {
  if (amplitude) return sum_rings<N, true>(spectrum, map, rings);
  sum_rings<N, false>(spectrum, map, rings);
}

/// Multiplies ring i by gains[1 + i], the rest by gains[0], and transforms the columns back; spoils the gains.
template <int N>
void weigh_rings(Spectrum* spectrum, const RingView& map, Twin* gains) {
  for (int64_t i = 0; i <= map.rings; ++i) {
    const Twin half = gains[i] * (0.5f / (N * N));
    gains[i] = {half.a + half.b, half.a - half.b};
  }
  for_each_column<N>([&](int64_t kx, int64_t mirror) __attribute__((always_inline)) {
    const int64_t last = kx == mirror ? N / 2 : N - 1;  // a column that is its own mirror is done from both ends
    for (int64_t ky = 0; ky <= last; ++ky) {
      const Twin& gain = gains[1 + map.half[ky * (N / 2 + 1) + kx]];
      Spectrum& z = spectrum[ky * kStride<N> + kx];
      Spectrum& opposite = spectrum[(N - ky) % N * kStride<N> + mirror];
      if (&z == &opposite) {
        z = {(gain.a + gain.b) * z.re, (gain.a - gain.b) * z.im};
      } else {
        weigh(z, opposite, gain.a, gain.b);
      }
    }
    fft_columns<N, 1>(spectrum, kx, mirror);
  });
}

/// Writes one value a ring and plane, times both scales: one after the other, as their product may overflow.
FREQROB_INLINE void store_rings(const Twin* rings, int64_t count, Twin scale, Twin other_scale, int64_t planes,
                                float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const Twin value = rings[1 + i] * scale * other_scale;
    for (int64_t plane = 0; plane < planes; ++plane) out[plane * count + i] = get(value, plane);
  }
}

/// What a kernel works on: spectra of one or two groups, a value a ring, a plane that nobody reads.
template <int N>
struct Workspace {
  Spectrum* first;
  Spectrum* second;
  float* sink;
  Twin* rings;

  explicit Workspace(void* scratch) {
    first = static_cast<Spectrum*>(scratch);
    second = first + N * kStride<N>;
    sink = reinterpret_cast<float*>(second + N * kStride<N>);
    rings = reinterpret_cast<Twin*>(sink + N * N);
  }

  static constexpr int64_t bytes(int64_t rings) {
    return 2 * N * kStride<N> * sizeof(Spectrum) + N * N * sizeof(float) + (rings + 1) * sizeof(Twin);
  }
};

template <int N>
void ring_sum(const RingSum& call, Groups groups, void* scratch) {
  const Workspace<N> work(scratch);
  for (int64_t index = groups.begin; index < groups.end; ++index) {
    const auto group = gather<N>(call.x, call.planes, index);
    load_rows<N>(group, work.first);
    sum_rings<N>(work.first, call.map, work.rings, call.amplitude);
    const Twin scale = group.unscale * (call.amplitude ? 0.5f : 0.25f);
    const Twin other_scale = call.amplitude ? kOnes : group.unscale;
    store_rings(work.rings, call.map.rings, scale, other_scale, group.planes,
                call.out + index * kPlanes * call.map.rings);
  }
}

/// Spreads the weights of the group's planes over the lanes, each plane's brought near 1, and returns what undoes that.
Twin load_weights(const RingFilter& call, int64_t index, int64_t planes, Twin* gains) {
  const int64_t rings = call.map.rings;
  const float* weights = call.weights + index * kPlanes * rings;
  Twin unscale = kOnes;
  for (int64_t i = 0; i <= rings; ++i) gains[i] = Twin{};
  for (int64_t plane = 0; plane < planes; ++plane) {
    const float* row = weights + plane * rings;
    const Normaliser power = weights_normaliser(row, rings, call.outside);
    set(unscale, plane, power.unscale);
    set(gains[0], plane, call.outside * power.scale);
    if (power.scale == 0.0f) continue;
    for (int64_t i = 0; i < rings; ++i) set(gains[1 + i], plane, row[i] * power.scale);
  }
  return unscale;
}

template <int N, class Pixel>
FREQROB_INLINE void aim(Pixel** target, Pixel* out, Pixel* sink, int64_t planes) {
  for (int64_t plane = 0; plane < kPlanes; ++plane) target[plane] = plane < planes ? out + plane * N * N : sink;
}

template <int N>
void ring_filter(const RingFilter& call, Groups groups, void* scratch) {
  const Workspace<N> work(scratch);
  for (int64_t index = groups.begin; index < groups.end; ++index) {
    const auto group = gather<N>(call.x, call.planes, index);
    const Twin unscale = group.unscale * load_weights(call, index, group.planes, work.rings);
    float* target[kPlanes];
    aim<N>(target, call.out + index * kPlanes * N * N, work.sink, group.planes);
    load_rows<N>(group, work.first);
    fft_all_columns<N>(work.first);
    weigh_rings<N>(work.first, call.map, work.rings);
    store_rows<N>(work.first, target, unscale, AsIs{});
  }
}

template <int N>
void ring_dot(const RingDot& call, Groups groups, void* scratch) {
  const Workspace<N> work(scratch);
  for (int64_t index = groups.begin; index < groups.end; ++index) {
    const auto x = gather<N>(call.x, call.planes, index);
    const auto y = gather<N>(call.y, call.planes, index);
    load_rows<N>(x, work.first);
    load_rows<N>(y, work.second);
    for (int64_t i = 0; i <= call.map.rings; ++i) work.rings[i] = Twin{};
    fft_all_columns<N>(work.first);
    visit_spectrum<N>(work.second,
                      [&](int64_t ky, int64_t kx, TwinSpectra<Lanes> twice_y) __attribute__((always_inline)) {
                        const TwinSpectra<Lanes> twice_x = spectra_at<N>(work.first, ky, kx, (N - kx) % N);
                        const float times = multiplicity(kx, N);
                        Twin& ring = work.rings[1 + call.map.half[ky * (N / 2 + 1) + kx]];
                        ring.a += (twice_x.a.re * twice_y.a.re + twice_x.a.im * twice_y.a.im) * times;
                        ring.b += (twice_x.b.re * twice_y.b.re + twice_x.b.im * twice_y.b.im) * times;
                      });
    store_rings(work.rings, call.map.rings, x.unscale * (0.25f / (N * N)), y.unscale, x.planes,
                call.out + index * kPlanes * call.map.rings);
  }
}

template <int N>
void amplitude_map(const AmplitudeMap& call, Groups groups, void* scratch) {
  const Workspace<N> work(scratch);
  for (int64_t index = groups.begin; index < groups.end; ++index) {
    const auto group = gather<N>(call.x, call.planes, index);
    const Twin unscale = group.unscale * 0.5f;
    double* out = call.out + index * N * (N / 2 + 1);
    load_rows<N>(group, work.first);
    visit_spectrum<N>(work.first, [&](int64_t ky, int64_t kx, TwinSpectra<Lanes> twice) __attribute__((always_inline)) {
      const Lanes amplitude = sqrt(power(twice.a)) * unscale.a + sqrt(power(twice.b)) * unscale.b;
      double sum = 0;
      for (int l = 0; l < kLanes; ++l) sum += amplitude[l];
      out[ky * (N / 2 + 1) + kx] = sum;
    });
  }
}

/// Gains of the group's planes from the ring sums in `rings`. Returns how many rings of each plane changed; a plane
/// whose profile overflows keeps gain 1 and gets NaN through `unscale`.
template <class Pixel>
Twin bass_gains_of(const Bass<Pixel>& call, Twin* rings, Twin& unscale) {
  const Twin amplitude = unscale * (0.5f * call.unit);
  const Twin unit = call.of_power ? amplitude * amplitude : amplitude;
  for (int64_t i = 0; i < call.map.rings; ++i) rings[1 + i] = rings[1 + i] * unit * call.norms[i];
  const auto a = bass_gains<LanesMath>(&rings[1].a, 2, call.weighable, call.map.rings, call.of_power);
  const auto b = bass_gains<LanesMath>(&rings[1].b, 2, call.weighable, call.map.rings, call.of_power);
  const Lanes one = kOnes.a, nan = one * __builtin_nanf("");
  const auto a_fits = a.profile < __FLT_MAX__, b_fits = b.profile < __FLT_MAX__;
  for (int64_t i = 0; i <= call.map.rings; ++i) {
    rings[i] = i == 0 ? kOnes : Twin{a_fits ? rings[i].a : one, b_fits ? rings[i].b : one};
  }
  unscale = {a_fits ? unscale.a : nan, b_fits ? unscale.b : nan};
  return {a.eligible, b.eligible};
}

/// A plane with fewer than two eligible rings is unchanged by definition: it is copied, lest rounding change it.
template <int N, class Pixel>
void keep_unchanged(const Group<Pixel>& group, Twin eligible, Pixel** target, Pixel* sink) {
  for (int64_t plane = 0; plane < group.planes; ++plane) {
    const bool is_finite = get(group.unscale, plane) > 0;
    if (get(eligible, plane) > 1.5f || !is_finite) continue;
    if (target[plane] != group.source[plane]) {
      __builtin_memcpy(target[plane], group.source[plane], N * N * sizeof(Pixel));
    }
    target[plane] = sink;
  }
}

template <int N, class Pixel>
void bass(const Bass<Pixel>& call, Groups groups, void* scratch) {
  const Workspace<N> work(scratch);
  Pixel* const sink = reinterpret_cast<Pixel*>(work.sink);
  for (int64_t index = groups.begin; index < groups.end; ++index) {
    const auto group = gather<N>(call.x, call.planes, index);
    Twin unscale = group.unscale;
    Pixel* target[kPlanes];
    aim<N>(target, call.out + index * kPlanes * N * N, sink, group.planes);
    load_rows<N>(group, work.first);
    sum_rings<N>(work.first, call.map, work.rings, !call.of_power);
    const Twin eligible = bass_gains_of(call, work.rings, unscale);
    keep_unchanged<N>(group, eligible, target, sink);
    weigh_rings<N>(work.first, call.map, work.rings);
    store_rows<N>(work.first, target, unscale, Clipped{call.white});
  }
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA
