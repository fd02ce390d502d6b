// A plane of any size, of floats or doubles, transformed on its own: neighbouring columns of the plane share a vector
// while columns are transformed, then neighbouring rows of its spectrum while rows are.
#pragma once

#include "any_fft.h"
#include "plane_at_a_time.h"

namespace freqrob::cpu::FREQROB_ISA::plane_at_a_time {
namespace {

// A half spectrum has the rows ky ≤ height/2 in bands of kLanes: lane l of element kx of a band is the coefficient at
// ky = kLanes · (index of the band) + l and kx. A band is padded to whole vectors of columns, and the last one to whole
// vectors of rows, with zeros.

template <class T>
struct AnySize {
  using V = Vector<T>;
  static constexpr int kLanes = kWidth<T>;

  int64_t height, width;
  int64_t bands;
  int64_t pitch;  // elements of a band
  RingTable<T> rings;
  Plan<T> of_columns, of_rows;
  Complex<V>* line;
  Complex<V>* other;
  Complex<V>* first;
  Complex<V>* second;

  AnySize(Memory& memory, const RingView& map)
      : height(map.height),
        width(map.width),
        bands((map.height / 2 + kLanes) / kLanes),
        pitch((map.width + 2 * kLanes - 1) / (2 * kLanes) * 2 * kLanes),
        rings(memory, map, bands * pitch * kLanes) {
    const int64_t longest = height > pitch ? height : pitch;
    Complex<V>* const room = memory.take<Complex<V>>(2 * longest + 1);
    of_columns = {height, memory.take<Complex<T>>(height), room};
    of_rows = {width, memory.take<Complex<T>>(width), room};
    line = memory.take<Complex<V>>(longest);
    other = memory.take<Complex<V>>(longest);
    first = memory.take<Complex<V>>(bands * pitch);
    second = memory.take<Complex<V>>(bands * pitch);
  }

  void prepare() const {
    of_columns.prepare();
    of_rows.prepare();
    if (rings.map.half == nullptr) return;
    for (int64_t band = 0; band < bands; ++band) {
      for (int64_t kx = 0; kx < width; ++kx) {
        int32_t* to = entries_of(band) + kx * kLanes;
        for (int l = 0; l < kLanes; ++l) {
          const int64_t ky = band * kLanes + l;
          to[l] = 2 * ky > height ? rings.none() : rings.entry(rings.half_index(ky, kx));
        }
      }
    }
  }

  int32_t* entries_of(int64_t band) const { return rings.entries + band * pitch * kLanes; }

  /// Where the rows of columns x, x + 1, … x + kLanes - 1 are.
  static FREQROB_INLINE int64_t at(int64_t ky, int64_t x, int64_t pitch) {
    return ky / kLanes * pitch + x + ky % kLanes;
  }

  /// kLanes pixels, or as many as there are and zeros.
  template <class Pixel>
  static FREQROB_INLINE V load_some(const Pixel* from, int64_t count) {
    if (count >= kLanes) return FREQROB_ISA::load(from);
    V some = {};
    for (int64_t l = 0; l < count; ++l) some[l] = from[l];
    return some;
  }

  template <class Pixel>
  static FREQROB_INLINE void store_some(Pixel* to, V pixels, int64_t count) {
    if (count >= kLanes) return FREQROB_ISA::store(to, pixels);
    for (int64_t l = 0; l < count; ++l) to[l] = static_cast<Pixel>(pixels[l]);
  }

  /// Reads scale · plane and transforms its columns.
  template <class Pixel>
  __attribute__((noinline)) void load(const Pixel* plane, T scale, Complex<V>* spectrum) const {
    const T half = T(0.5) * scale;  // because separate() gives twice the transforms
    for (int64_t k = (bands - 1) * pitch; k < bands * pitch; ++k) spectrum[k] = Complex<V>{};
    for (int64_t x = 0; x < width; x += 2 * kLanes) {
      for (int64_t y = 0; y < height; ++y) {
        const Pixel* const row = plane + y * width + x;
        line[y] = {load_some(row, width - x) * half, load_some(row + kLanes, width - x - kLanes) * half};
      }
      const Complex<V>* z = any_fft<-1>(of_columns, line, other);
      for (int64_t ky = 0; 2 * ky <= height; ++ky) {
        const auto columns = separate(z[ky], z[(height - ky) % height]);
        spectrum[at(ky, x, pitch)] = columns.a;
        spectrum[at(ky, x + kLanes, pitch)] = columns.b;
      }
    }
  }

  /// Transforms the columns back and writes finish(value) to the plane.
  template <class Pixel, class Finish>
  __attribute__((noinline)) void store(const Complex<V>* spectrum, Pixel* plane, T unscale, Finish finish) const {
    for (int64_t x = 0; x < width; x += 2 * kLanes) {
      for (int64_t ky = 0; 2 * ky <= height; ++ky) {
        const Complex<V>&a = spectrum[at(ky, x, pitch)], &b = spectrum[at(ky, x + kLanes, pitch)];
        if (ky == 0 || 2 * ky == height) {
          line[ky] = {a.re, b.re};
        } else {
          line[ky] = {a.re - b.im, a.im + b.re};
          line[height - ky] = {a.re + b.im, b.re - a.im};
        }
      }
      const Complex<V>* z = any_fft<1>(of_columns, line, other);
      for (int64_t y = 0; y < height; ++y) {
        Pixel* const row = plane + y * width + x;
        store_some(row, finish(z[y].re * unscale), width - x);
        store_some(row + kLanes, finish(z[y].im * unscale), width - x - kLanes);
      }
    }
  }

  __attribute__((noinline)) void transform_rows(Complex<V>* band) const {
    const bool is_even = steps_of(width) % 2 == 0;
    Complex<V>* const from = is_even ? band : other;
    transpose_squares(band, from, pitch);
    any_fft<-1>(of_rows, from, is_even ? other : band);
  }

  __attribute__((noinline)) void transform_rows_back(Complex<V>* band) const {
    transpose_squares(any_fft<1>(of_rows, band, other), band, pitch);
  }

  template <class Value, class... Band>
  __attribute__((noinline)) void sum_band(int64_t index, Value value, const Band*... band) const {
    V times;  // the other half is the mirror of this one, except for two rows that are their own
    for (int l = 0; l < kLanes; ++l) times[l] = T(0.5) * multiplicity(index * kLanes + l, height);
    const int32_t* const entries = entries_of(index);
    for (int64_t kx = 0; kx < width; ++kx) rings.add(entries + kx * kLanes, value(band[kx]...) * times);
  }

  template <class Weigh>
  __attribute__((noinline)) void weigh_band(int64_t index, Complex<V>* band, Weigh factor) const {
    const int32_t* const entries = entries_of(index);
    for (int64_t kx = 0; kx < width; ++kx) {
      band[kx] = band[kx] * factor(look_up(rings.gains, entries + kx * kLanes), band[kx]);
    }
  }

  // Amplitudes are added up like the elements of a spectrum.

  void clear_amplitudes(double* sums) const {
    for (int64_t k = 0; k < bands * pitch * kLanes; ++k) sums[k] = 0;
  }

  void add_amplitudes(T unscale, double* sums) const {
    for (int64_t band = 0; band < bands; ++band) {
      transform_rows(first + band * pitch);
      for (int64_t k = band * pitch; k < band * pitch + width; ++k) {
        T values[kLanes];
        FREQROB_ISA::store(values, Amplitude{}(first[k]) * unscale);
        for (int l = 0; l < kLanes; ++l) sums[k * kLanes + l] += values[l];
      }
    }
  }

  void store_amplitudes(const double* sums, double* out) const {
    const int64_t columns = width / 2 + 1;
    for (int64_t ky = 0; ky < height; ++ky) {
      for (int64_t kx = 0; kx < columns; ++kx) {
        const bool is_mirror = 2 * ky > height;
        const int64_t row = is_mirror ? height - ky : ky, column = is_mirror ? (width - kx) % width : kx;
        out[ky * columns + kx] = sums[(row / kLanes * pitch + column) * kLanes + row % kLanes];
      }
    }
  }
};

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA::plane_at_a_time
