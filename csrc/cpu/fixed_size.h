// A plane of N × N, N = 224, transformed on its own: neighbouring columns of the plane share a vector while columns are
// transformed, then neighbouring rows of its spectrum while rows are.
#pragma once

#include "long_fft.h"
#include "plane_at_a_time.h"

namespace freqrob::cpu::FREQROB_ISA::plane_at_a_time {
namespace {

// A half spectrum has the rows ky < N/2 in bands of kLanes: lane l of band[position<N>(kx)] is the coefficient at
// ky = kLanes · (index of the band) + l and kx. Before their own transform the rows 0 and N/2 are real: lane 0 of band
// 0 is the transform of row 0 + i · row N/2.

template <int N>
constexpr int64_t kElements = N / 2 * N / kLanes;

FREQROB_INLINE Complex<float> first_lane(const Spectrum& z) {
  return {z.re[0], z.im[0]};
}

/// Reads scale · plane and transforms its columns; element band · N + x + l is the row ky = kLanes · band + l of the
/// columns x, x + 1, …
template <int N, class Pixel>
__attribute__((noinline)) void load_columns(const Pixel* plane, float scale, Spectrum* line, Spectrum* spectrum) {
  const float half = 0.5f * scale;  // because separate() gives twice the transforms
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

/// Twice the rows 0 (a) and N/2 (b) at kx.
template <int N>
FREQROB_INLINE TwinSpectra<float> edge_rows(const Spectrum* band, int kx) {
  return separate(first_lane(band[position<N>(kx)]), first_lane(band[position<N>((N - kx) % N)]));
}

template <int N>
struct FixedSize {
  static constexpr int bands = N / 2 / kLanes;
  static constexpr int pitch = N;  // elements of a band

  RingTable<float> rings;
  Spectrum* line;
  Spectrum* first;
  Spectrum* second;

  FixedSize(Memory& memory, const RingView& map)
      : rings(memory, map, kElements<N> * kLanes),
        line(memory.take<Spectrum>(N)),
        first(memory.take<Spectrum>(kElements<N>)),
        second(memory.take<Spectrum>(kElements<N> + N)) {}  // and the amplitudes of two rows

  void prepare() const {
    if (rings.map.half == nullptr) return;
    for (int band = 0; band < bands; ++band) {
      for (int kx = 0; kx < N; ++kx) {
        int32_t* to = rings.entries + (band * N + position<N>(kx)) * kLanes;
        for (int l = band == 0; l < kLanes; ++l) to[l] = rings.entry(rings.half_index(band * kLanes + l, kx));
      }
    }
    for (int n = 0; n < N; ++n) rings.entries[n * kLanes] = rings.none();
  }

  template <class Pixel>
  void load(const Pixel* x, float scale, Spectrum* spectrum) const {
    load_columns<N>(x, scale, line, spectrum);
  }

  __attribute__((noinline)) void transform_rows(Spectrum* band) const {
    transpose_squares(band, band, N);
    transform<N>(band, [=](int x) __attribute__((always_inline)) { return band[x]; });
  }

  __attribute__((noinline)) void transform_rows_back(Spectrum* band) const {
    transform_back<N>(band, [=](int x, Spectrum value) __attribute__((always_inline)) { band[x] = value; });
    transpose_squares(band, band, N);
  }

  template <class Value, class... Band>
  __attribute__((noinline)) void sum_band(int64_t index, Value value, const Band*... band) const {
    const int32_t* entries = rings.entries + index * N * kLanes;
    for (int n = 0; n < N; ++n) rings.add(entries + n * kLanes, value(band[n]...));
    if (index != 0) return;
    for (int kx = 0; kx <= N / 2; ++kx) {
      const double times = 0.5 * multiplicity(kx, N);
      rings.sums[rings.entry(kx)] += times * value((edge_rows<N>(band, kx).a * 0.5f)...);
      rings.sums[rings.entry(rings.half_index(N / 2, kx))] += times * value((edge_rows<N>(band, kx).b * 0.5f)...);
    }
  }

  template <class Weigh>
  __attribute__((noinline)) void weigh_band(int64_t index, Spectrum* band, Weigh factor) const {
    const int32_t* entries = rings.entries + index * N * kLanes;
    for (int n = 0; n < N; ++n) {
      Lanes by = factor(look_up(rings.gains, entries + n * kLanes), band[n]);
      if (index == 0) by[0] = 1;
      band[n] = band[n] * by;
    }
    if (index != 0) return;
    for (int kx = 0; kx <= N / 2; ++kx) {
      const auto twice = edge_rows<N>(band, kx);
      const float a = factor(rings.gains[rings.entry(kx)], twice.a * 0.5f);
      const float b = factor(rings.gains[rings.entry(rings.half_index(N / 2, kx))], twice.b * 0.5f);
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

  template <class Pixel, class Finish>
  void store(const Spectrum* spectrum, Pixel* out, float unscale, Finish finish) const {
    store_columns<N>(spectrum, line, out, unscale, finish);
  }

  // Amplitudes are added up like the elements of a spectrum, and those of the two packed rows after them.

  void clear_amplitudes(double* sums) const {
    for (int64_t k = 0; k < kElements<N> * kLanes + 2 * (N / 2 + 1); ++k) sums[k] = 0;
  }

  void add_amplitudes(float unscale, double* sums) const {
    for (int band = 0; band < bands; ++band) transform_rows(first + band * N);
    for (int64_t n = 0; n < kElements<N>; ++n) {
      float values[kLanes];
      freqrob::cpu::FREQROB_ISA::store(values, Amplitude{}(first[n]) * unscale);
      for (int l = 0; l < kLanes; ++l) sums[n * kLanes + l] += values[l];
    }
    double* const edges = sums + kElements<N> * kLanes;
    for (int kx = 0; kx <= N / 2; ++kx) {
      const auto twice = edge_rows<N>(first, kx);
      edges[kx] += Amplitude{}(twice.a) * 0.5f * unscale;
      edges[N / 2 + 1 + kx] += Amplitude{}(twice.b) * 0.5f * unscale;
    }
  }

  void store_amplitudes(const double* sums, double* out) const {
    constexpr int kColumns = N / 2 + 1;
    const double* const edges = sums + kElements<N> * kLanes;
    for (int kx = 0; kx < kColumns; ++kx) {
      out[kx] = edges[kx];
      out[N / 2 * kColumns + kx] = edges[kColumns + kx];
    }
    for (int ky = 1; ky < N / 2; ++ky) {
      const double* row = sums + (ky / kLanes * N * kLanes + ky % kLanes);
      for (int kx = 0; kx < kColumns; ++kx) {
        out[ky * kColumns + kx] = row[position<N>(kx) * kLanes];
        out[(N - ky) * kColumns + kx] = row[position<N>((N - kx) % N) * kLanes];
      }
    }
  }
};

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA::plane_at_a_time
