// The fused kernels that take one plane at a time: for planes of which no more fits into the second-level cache, and
// for fewer than fill the lanes of fused.h. Neighbouring columns of the plane share a vector while columns are
// transformed, then neighbouring rows of its spectrum while rows are. Included once by each instruction set's file
// after its target pragma.
#pragma once

#include "../bass_gains.h"
#include "long_fft.h"

namespace freqrob::cpu::FREQROB_ISA::one_by_one {
namespace {

// A half spectrum has the rows ky < N/2 in bands of kLanes: lane l of band[position<N>(kx)] is the coefficient at
// ky = kLanes · (index of the band) + l and kx. Before their own transform the rows 0 and N/2 are real: lane 0 of band
// 0 is the transform of row 0 + i · row N/2.

template <int N>
constexpr int kBands = N / 2 / kLanes;
template <int N>
constexpr int64_t kElements = N / 2 * N / kLanes;
constexpr int64_t kPlanesPerMap = 4;

/// Where rfft2 has the coefficient (ky, kx), 0 < ky < N, or its mirror.
template <int N>
FREQROB_INLINE int64_t half_index(int64_t ky, int64_t kx) {
  return kx > N / 2 ? (N - ky) * (N / 2 + 1) + N - kx : ky * (N / 2 + 1) + kx;
}

/// What a kernel works on. Entry 0 of a table of rings is for the coefficients on none, 1 + i for ring i, rings + 1 for
/// the two rows that share a lane; every entry has a place for each lane, lest neighbours wait for each other.
template <int N>
struct Workspace {
  const RingView map;
  Spectrum* const line;
  Spectrum* const first;
  Spectrum* const second;
  int32_t* const entries;  // (bands, N, kLanes): first place of each coefficient's entry
  double* const sums;
  float* const gains;

  static constexpr int64_t bytes(int64_t rings) {
    const int64_t places = (rings + 2) * kLanes;
    return (N + 2 * kElements<N>)*sizeof(Spectrum) + kElements<N> * sizeof(Lanes) +
           places * (sizeof(double) + sizeof(float));
  }

  Workspace(void* scratch, const RingView& map)
      : map(map),
        line(static_cast<Spectrum*>(scratch)),
        first(line + N),
        second(first + kElements<N>),
        entries(reinterpret_cast<int32_t*>(second + kElements<N>)),
        sums(reinterpret_cast<double*>(entries + kElements<N> * kLanes)),
        gains(reinterpret_cast<float*>(sums + (map.rings + 2) * kLanes)) {}

  FREQROB_INLINE int64_t entry(int64_t k) const { return (1 + map.half[k]) * kLanes; }

  void place_rings() const {
    for (int band = 0; band < kBands<N>; ++band) {
      for (int kx = 0; kx < N; ++kx) {
        int32_t* to = entries + (band * N + position<N>(kx)) * kLanes;
        for (int l = band == 0; l < kLanes; ++l) to[l] = entry(half_index<N>(band * kLanes + l, kx));
      }
    }
    for (int n = 0; n < N; ++n) entries[n * kLanes] = (map.rings + 1) * kLanes;
  }

  void clear_sums() const {
    for (int64_t i = 0; i < (map.rings + 2) * kLanes; ++i) sums[i] = 0;
  }

  /// Of the full spectrum: the other half is the mirror of this one.
  double ring_sum(int64_t ring) const {
    double sum = 0;
    for (int l = 0; l < kLanes; ++l) sum += sums[(1 + ring) * kLanes + l];
    return 2 * sum;
  }

  /// Sets the gain of every ring to gain(i) and that of the coefficients on none, over the size of the transform.
  template <class Gain>
  void set_gains(float outside, Gain gain) const {
    constexpr float kUnit = 1.0f / (N * N);
    gains[0] = outside * kUnit;
    for (int64_t ring = 0; ring < map.rings; ++ring) gains[(1 + ring) * kLanes] = gain(ring) * kUnit;
    gains[(1 + map.rings) * kLanes] = 1.0f;
  }
};

FREQROB_INLINE Complex<float> first_lane(const Spectrum& z) {
  return {z.re[0], z.im[0]};
}

/// Transposes the squares of a band.
template <int N>
void turn_band(Spectrum* band) {
  for (int x = 0; x < N; x += kLanes) {
    Lanes re[kLanes], im[kLanes];
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) re[l] = band[x + l].re;
    transpose(re);
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) band[x + l].re = re[l];
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) im[l] = band[x + l].im;
    transpose(im);
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) band[x + l].im = im[l];
  }
}

/// Reads scale · plane and transforms its columns; element band · N + x + l is the row ky = kLanes · band + l of the
/// columns x, x + 1, …
template <int N, class Pixel>
__attribute__((noinline)) void load_columns(const Pixel* plane, float scale, Spectrum* line, Spectrum* spectrum) {
  const float half = 0.5f * scale;  // as two columns are told apart into twice their transforms
  for (int x = 0; x < N; x += 2 * kLanes) {
    transform<N>(line, [=](int y) __attribute__((always_inline)) -> Spectrum {
      const Pixel* row = plane + y * N + x;
      return {load(row) * half, load(row + kLanes) * half};
    });
    Spectrum* const left = spectrum + x;
    Spectrum* const right = left + kLanes;
    const Spectrum zero = line[0], middle = line[position<N>(N / 2)];
    left[0] = {zero.re + zero.re, middle.re + middle.re};
    right[0] = {zero.im + zero.im, middle.im + middle.im};
    for (int ky = 1; ky < N / 2; ++ky) {
      const auto columns = separate(line[position<N>(ky)], line[position<N>(N - ky)]);
      const int at = ky / kLanes * N + ky % kLanes;
      left[at] = columns.a;
      right[at] = columns.b;
    }
  }
}

/// Transforms the columns back and writes finish(value) to the plane.
template <int N, class Pixel, class Finish>
__attribute__((noinline)) void store_columns(const Spectrum* spectrum, Spectrum* line, Pixel* plane, float unscale,
                                             Finish finish) {
  for (int x = 0; x < N; x += 2 * kLanes) {
    const Spectrum* const left = spectrum + x;
    const Spectrum* const right = left + kLanes;
    line[0] = {left[0].re, right[0].re};
    line[position<N>(N / 2)] = {left[0].im, right[0].im};
    for (int ky = 1; ky < N / 2; ++ky) {
      const int at = ky / kLanes * N + ky % kLanes;
      const Spectrum a = left[at], b = right[at];
      line[position<N>(ky)] = {a.re - b.im, a.im + b.re};
      line[position<N>(N - ky)] = {a.re + b.im, b.re - a.im};
    }
    transform_back<N>(line, [=](int y, Spectrum value) __attribute__((always_inline)) {
      Pixel* row = plane + y * N + x;
      store(row, finish(value.re * unscale));
      store(row + kLanes, finish(value.im * unscale));
    });
  }
}

template <int N>
__attribute__((noinline)) void transform_rows(Spectrum* band) {
  turn_band<N>(band);
  transform<N>(band, [=](int x) __attribute__((always_inline)) { return band[x]; });
}

template <int N>
__attribute__((noinline)) void transform_rows_back(Spectrum* band) {
  transform_back<N>(band, [=](int x, Spectrum value) __attribute__((always_inline)) { band[x] = value; });
  turn_band<N>(band);
}

/// Twice the rows 0 (a) and N/2 (b) at kx.
template <int N>
FREQROB_INLINE TwinSpectra<float> edge_rows(const Spectrum* band, int kx) {
  return separate(first_lane(band[position<N>(kx)]), first_lane(band[position<N>((N - kx) % N)]));
}

/// Adds value(spectra…) of a band to the rings' sums.
template <int N, class Value, class... Band>
__attribute__((noinline)) void sum_band(const Workspace<N>& work, int index, Value value, const Band*... band) {
  const int32_t* entries = work.entries + index * N * kLanes;
  double* const sums = work.sums;
  for (int n = 0; n < N; ++n) {
    float values[kLanes];
    store(values, value(band[n]...));
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) sums[entries[n * kLanes + l] + l] += values[l];
  }
  if (index != 0) return;
  for (int kx = 0; kx <= N / 2; ++kx) {
    const double times = 0.5 * multiplicity(kx, N);
    sums[work.entry(kx)] += times * value((edge_rows<N>(band, kx).a * 0.5f)...);
    sums[work.entry(half_index<N>(N / 2, kx))] += times * value((edge_rows<N>(band, kx).b * 0.5f)...);
  }
}

template <int N>
__attribute__((noinline)) void weigh_band(const Workspace<N>& work, int index, Spectrum* band) {
  const int32_t* entries = work.entries + index * N * kLanes;
  for (int n = 0; n < N; ++n) {
    band[n] = band[n] * look_up(work.gains, entries + n * kLanes);
  }
  if (index != 0) return;
  for (int kx = 0; kx <= N / 2; ++kx) {
    const float a = work.gains[work.entry(kx)], b = work.gains[work.entry(half_index<N>(N / 2, kx))];
    Spectrum& at = band[position<N>(kx)];
    Spectrum& opposite = band[position<N>((N - kx) % N)];
    Complex<float> z = first_lane(at), mirror = first_lane(opposite);
    if (&at == &opposite) {
      z = mirror = {a * z.re, b * z.im};
    } else {
      weigh(z, mirror, 0.5f * (a + b), 0.5f * (a - b));
    }
    opposite.re[0] = mirror.re, opposite.im[0] = mirror.im;
    at.re[0] = z.re, at.im[0] = z.im;
  }
}

/// Transforms a plane, of which the columns are, and sums over its rings.
template <int N, class Value>
FREQROB_INLINE void sum_rings(const Workspace<N>& work, Value value) {
  work.clear_sums();
  for (int band = 0; band < kBands<N>; ++band) {
    transform_rows<N>(work.first + band * N);
    sum_band(work, band, value, work.first + band * N);
  }
}

template <int N>
FREQROB_INLINE void sum_rings(const Workspace<N>& work, bool amplitude) {
  amplitude ? sum_rings(work, Amplitude{}) : sum_rings(work, Power{});
}

template <int N>
void ring_sum(const RingSum& call, Groups planes, void* scratch) {
  const Workspace<N> work(scratch, call.map);
  work.place_rings();
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const float* x = call.x + plane * N * N;
    const Normaliser power = normaliser(x, N * N);
    const double unscale = power.unscale;
    load_columns<N>(x, power.scale, work.line, work.first);
    sum_rings(work, call.amplitude);
    float* out = call.out + plane * call.map.rings;
    for (int64_t ring = 0; ring < call.map.rings; ++ring) {
      out[ring] = static_cast<float>(work.ring_sum(ring) * unscale * (call.amplitude ? 1 : unscale));
    }
  }
}

template <int N>
void ring_filter(const RingFilter& call, Groups planes, void* scratch) {
  const Workspace<N> work(scratch, call.map);
  work.place_rings();
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const float* x = call.x + plane * N * N;
    const float* weights = call.weights + plane * call.map.rings;
    const Normaliser power = normaliser(x, N * N);
    const Normaliser weight = weights_normaliser(weights, call.map.rings, call.outside);
    work.set_gains(call.outside * weight.scale, [=](int64_t ring) { return weights[ring] * weight.scale; });
    load_columns<N>(x, power.scale, work.line, work.first);
    for (int band = 0; band < kBands<N>; ++band) {
      transform_rows<N>(work.first + band * N);
      weigh_band(work, band, work.first + band * N);
      transform_rows_back<N>(work.first + band * N);
    }
    store_columns<N>(work.first, work.line, call.out + plane * N * N, power.unscale * weight.unscale, AsIs{});
  }
}

template <int N>
void ring_dot(const RingDot& call, Groups planes, void* scratch) {
  const Workspace<N> work(scratch, call.map);
  work.place_rings();
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const float* x = call.x + plane * N * N;
    const float* y = call.y + plane * N * N;
    const Normaliser x_power = normaliser(x, N * N), y_power = normaliser(y, N * N);
    load_columns<N>(x, x_power.scale, work.line, work.first);
    load_columns<N>(y, y_power.scale, work.line, work.second);
    work.clear_sums();
    for (int band = 0; band < kBands<N>; ++band) {
      transform_rows<N>(work.first + band * N);
      transform_rows<N>(work.second + band * N);
      sum_band(work, band, Product{}, work.first + band * N, work.second + band * N);
    }
    const double unscale = static_cast<double>(x_power.unscale) * y_power.unscale / (N * N);
    float* out = call.out + plane * call.map.rings;
    for (int64_t ring = 0; ring < call.map.rings; ++ring) {
      out[ring] = static_cast<float>(work.ring_sum(ring) * unscale);
    }
  }
}

/// Sums in the order of the bands first, as the order of rfft2 would scatter every vector.
template <int N>
void amplitude_map(const AmplitudeMap& call, Groups groups, void* scratch) {
  const Workspace<N> work(scratch, {nullptr, N, N, 0});
  double* const sums = reinterpret_cast<double*>(work.second);
  for (int64_t group = groups.begin; group < groups.end; ++group) {
    double* const out = call.out + group * N * (N / 2 + 1);
    for (int64_t k = 0; k < N * (N / 2 + 1); ++k) out[k] = 0;
    for (int64_t k = 0; k < kElements<N> * kLanes; ++k) sums[k] = 0;
    const int64_t first = group * kPlanesPerMap, last = first + kPlanesPerMap;
    for (int64_t plane = first; plane < last && plane < call.planes; ++plane) {
      const float* x = call.x + plane * N * N;
      const Normaliser power = normaliser(x, N * N);
      load_columns<N>(x, power.scale, work.line, work.first);
      for (int band = 0; band < kBands<N>; ++band) transform_rows<N>(work.first + band * N);
      for (int64_t n = 0; n < kElements<N>; ++n) {
        float values[kLanes];
        store(values, Amplitude{}(work.first[n]) * power.unscale);
        for (int l = 0; l < kLanes; ++l) sums[n * kLanes + l] += values[l];
      }
      for (int kx = 0; kx <= N / 2; ++kx) {
        const auto twice = edge_rows<N>(work.first, kx);
        out[kx] += Amplitude{}(twice.a) * 0.5f * power.unscale;
        out[half_index<N>(N / 2, kx)] += Amplitude{}(twice.b) * 0.5f * power.unscale;
      }
    }
    for (int ky = 1; ky < N / 2; ++ky) {
      const double* row = sums + (ky / kLanes * N * kLanes + ky % kLanes);
      for (int kx = 0; kx <= N / 2; ++kx) {
        out[ky * (N / 2 + 1) + kx] = row[position<N>(kx) * kLanes];
        out[(N - ky) * (N / 2 + 1) + kx] = row[position<N>((N - kx) % N) * kLanes];
      }
    }
  }
}

/// Leaves the gains of a summed plane; returns how many rings changed, NaN if the profile overflows.
template <int N, class Pixel>
double bass_gains_of(const Workspace<N>& work, const Bass<Pixel>& call, double unscale) {
  const double amplitude = unscale * call.unit, unit = call.of_power ? amplitude * amplitude : amplitude;
  double* const profile = work.sums;  // ring i of it lies below what ring i is summed from
  for (int64_t i = 0; i < call.map.rings; ++i) profile[i] = work.ring_sum(i) * unit * call.norms[i];
  const auto total = bass_gains<ScalarMath>(profile, 1, call.weighable, call.map.rings, call.of_power);
  work.set_gains(1.0f, [=](int64_t ring) { return static_cast<float>(profile[ring]); });
  return total.profile <= __DBL_MAX__ ? total.eligible : __builtin_nan("");
}

template <int N, class Pixel>
void bass(const Bass<Pixel>& call, Groups planes, void* scratch) {
  const Workspace<N> work(scratch, call.map);
  work.place_rings();
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const Pixel* x = call.x + plane * N * N;
    Pixel* out = call.out + plane * N * N;
    const Normaliser power = normaliser(x, N * N);
    load_columns<N>(x, power.scale, work.line, work.first);
    sum_rings(work, !call.of_power);
    const double changed = power.scale > 0 ? bass_gains_of(work, call, power.unscale) : __builtin_nan("");
    if (!(changed >= 0)) {
      for (int64_t i = 0; i < N * N; ++i) out[i] = static_cast<Pixel>(__builtin_nanf(""));
    } else if (changed < 2) {  // unchanged by definition: it is copied, lest rounding change it
      if (out != x) __builtin_memcpy(out, x, N * N * sizeof(Pixel));
    } else {
      for (int band = 0; band < kBands<N>; ++band) {
        weigh_band(work, band, work.first + band * N);
        transform_rows_back<N>(work.first + band * N);
      }
      store_columns<N>(work.first, work.line, out, power.unscale, Clipped{call.white});
    }
  }
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA::one_by_one
