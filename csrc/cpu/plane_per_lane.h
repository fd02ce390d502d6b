// The fused kernels with one plane per vector lane: transform, rings and inverse transform of a group of planes with
// one read and one write of the images. Lanes are never combined, so a plane's result does not depend on the other
// planes or on their number. Included once by each instruction set's file after its target pragma.
//
// The rows y and y + N/2 of a real plane are transformed as one complex row. After their separation the columns
// 0 < kx < N/2 of the spectrum stay at kx and N - kx, with twice their value; columns 0 and N/2, which come from real
// numbers, are transformed as one complex column.
#pragma once

#include "../bass_gains.h"
#include "fused_parts.h"

namespace freqrob::cpu::FREQROB_ISA {
namespace {

constexpr int64_t kLargest = 64;
constexpr int64_t kGroupsPerMap = 2;

/// Rows are padded: a power of two as the distance between them would put a column into one cache set.
template <int N>
constexpr int64_t kStride = N + 1;

constexpr Lanes kOnes = Lanes{} + 1.0f;

/// The planes of a group and the powers of two that bring each near 1.
template <class Pixel>
struct Group {
  const Pixel* source[kLanes];
  int64_t planes;
  Lanes scale = kOnes;
  Lanes unscale = kOnes;  // NaN for a plane that is not finite: it is computed as zero and comes out as NaN
};

alignas(64) const float kZeros[kLargest * kLargest] = {};

FREQROB_INLINE void normalise(Group<float>& group, int64_t plane, int64_t pixels) {
  const Normaliser<float> power = normaliser(group.source[plane], pixels);
  if (power.scale == 0.0f) group.source[plane] = kZeros;
  group.scale[plane] = power.scale;
  group.unscale[plane] = power.unscale;
}

FREQROB_INLINE void normalise(Group<uint8_t>&, int64_t, int64_t) {}

/// Lanes without a plane get zeros.
template <int N, class Pixel>
Group<Pixel> gather(const Pixel* x, int64_t planes, int64_t index) {
  Group<Pixel> group;
  const int64_t first = index * kLanes;
  group.planes = planes - first < kLanes ? planes - first : kLanes;
  for (int64_t plane = 0; plane < kLanes; ++plane) {
    group.source[plane] = reinterpret_cast<const Pixel*>(kZeros);
    if (plane >= group.planes) continue;
    group.source[plane] = x + (first + plane) * N * N;
    normalise(group, plane, N * N);
  }
  return group;
}

/// How many planes are written at a time: the same row of planes that are a multiple of 4 KiB apart is in one set of
/// the first-level cache. The numbers are measured.
template <int N, class Pixel>
constexpr int planes_at_a_time() {
  constexpr int64_t kApart = N * N * sizeof(Pixel);
  constexpr int kMost = kApart < 4096 ? 16 : kApart == 4096 ? 8 : 4;
  return kMost < kLanes ? kMost : kLanes;
}

/// Reads a row of each plane: value l of the part at x is pixel x + l, with one plane to a lane.
template <int N, class Pixel, class Put>
FREQROB_INLINE void load_row(const Pixel* const* source, int64_t y, Put put) {
  constexpr bool kByPlane = sizeof(Pixel) == 1 && planes_at_a_time<N, Pixel>() < kLanes;
  Lanes parts[N / kLanes][kLanes];
  if constexpr (kByPlane) {  // parts of a cache line, before another plane's line replaces it
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) {
      FREQROB_UNROLL
      for (int x = 0; x < N; x += kLanes) parts[x / kLanes][l] = load(source[l] + y * N + x);
    }
  }
  FREQROB_UNROLL
  for (int x = 0; x < N; x += kLanes) {
    Lanes* block = parts[x / kLanes];
    if constexpr (!kByPlane) {
      FREQROB_UNROLL
      for (int l = 0; l < kLanes; ++l) block[l] = load(source[l] + y * N + x);
    }
    transpose(block);
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) put(x + l, block[l]);
  }
}

/// Reads the rows y and y + N/2 of each plane as one complex row and transforms it.
template <int N, class Pixel>
FREQROB_INLINE void load_row_pair(const Pixel* const* source, int64_t y, Lanes scale, Spectrum* row) {
  load_row<N>(source, y, [=](int x, Lanes v) __attribute__((always_inline)) { row[x].re = v * scale; });
  load_row<N>(source, y + N / 2, [=](int x, Lanes v) __attribute__((always_inline)) { row[x].im = v * scale; });
  fft_line<N, -1>(row);
}

/// Reads the planes and transforms their rows.
template <int N, class Pixel>
__attribute__((noinline)) void load_rows(const Group<Pixel>& group, Spectrum* spectrum) {
  for (int64_t y = 0; y < N / 2; ++y) load_row_pair<N>(group.source, y, group.scale, spectrum + y * kStride<N>);
}

/// Transposes kLanes values of each plane and writes those of `Some` planes from the `first` on.
template <int N, int Some, class Pixel>
FREQROB_INLINE void store_block(Pixel* const* target, int first, int64_t y, int64_t x, Lanes* block) {
  transpose(block);
  FREQROB_UNROLL
  for (int l = 0; l < Some; ++l) store(target[first + l] + y * N + x, block[first + l]);
}

/// Writes finish(value) of a complex row to the rows y and y + N/2 of `Some` planes.
template <int N, int Some, class Pixel, class Finish>
FREQROB_INLINE void store_row_pair(const Spectrum* row, Pixel* const* target, int first, int64_t y, Lanes unscale,
                                   Finish finish) {
  for (int64_t x = 0; x < N; x += kLanes) {
    Lanes block[kLanes];
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) block[l] = finish(row[x + l].re * unscale);
    store_block<N, Some>(target, first, y, x, block);
    FREQROB_UNROLL
    for (int l = 0; l < kLanes; ++l) block[l] = finish(row[x + l].im * unscale);
    store_block<N, Some>(target, first, y + N / 2, x, block);
  }
}

/// Transforms the rows back and writes finish(value) to the planes.
template <int N, class Pixel, class Finish>
__attribute__((noinline)) void store_rows(Spectrum* spectrum, Pixel* const* target, Lanes unscale, Finish finish) {
  constexpr int kRows = 4, kSome = planes_at_a_time<N, Pixel>();
  for (int64_t above = 0; above < N / 2; above += kRows) {
    for (int64_t y = above; y < above + kRows; ++y) fft_line<N, 1>(spectrum + y * kStride<N>);
    FREQROB_UNROLL
    for (int first = 0; first < kLanes; first += kSome) {
      for (int64_t y = above; y < above + kRows; ++y) {
        store_row_pair<N, kSome>(spectrum + y * kStride<N>, target, first, y, unscale, finish);
      }
    }
  }
}

/// One column of the half spectrum, at the places of kx and N - kx; "column 0" is that of 0 and N/2 together.
template <int N>
struct Column {
  Spectrum* const upper;  // 0 ≤ ky < N/2
  Spectrum* const lower;  // N/2 ≤ ky < N

  Column(Spectrum* spectrum, int64_t kx) : upper(spectrum + kx), lower(spectrum + (kx == 0 ? N / 2 : N - kx)) {}

  FREQROB_INLINE Spectrum& operator[](int64_t ky) const {
    return ky < N / 2 ? upper[ky * kStride<N>] : lower[(ky - N / 2) * kStride<N>];
  }
};

/// Separates the rows y and y + N/2 of a column, transforms it and calls visit(ky, coefficient).
template <int N, bool IsEdge, class Visit>
FREQROB_INLINE void transform_column(Column<N> column, Visit visit) {
  constexpr int kOuter = N / 8;
  fft<N, -1, Lanes>(
      [=](int n, Spectrum* z) __attribute__((always_inline)) {
        FREQROB_UNROLL
        for (int m = 0; m < kOuter / 2; ++m) {
          const Spectrum &at = column[8 * m + n], &mirror = column[8 * m + n + N / 2];
          TwinSpectra<Lanes> rows;
          if constexpr (IsEdge) {
            rows = {{at.re, mirror.re}, {at.im, mirror.im}};
          } else {
            rows = separate(at, mirror);
          }
          z[m] = rows.a;
          z[m + kOuter / 2] = rows.b;
        }
      },
      [=](int k, const Spectrum* z) __attribute__((always_inline)) {
        FREQROB_UNROLL
        for (int j = 0; j < 8; ++j) {
          column[k + kOuter * j] = z[j];
          visit(k + kOuter * j, z[j]);
        }
      });
}

/// Transforms the columns kx < columns.
template <int N>
void transform_columns(Spectrum* spectrum, int64_t columns = N / 2) {
  const auto nothing = [](int, Spectrum) __attribute__((always_inline)) {};
  transform_column<N, true>(Column<N>(spectrum, 0), nothing);
  for (int64_t kx = 1; kx < columns; ++kx) transform_column<N, false>(Column<N>(spectrum, kx), nothing);
}

/// Transforms a column back, times gain(ky), and puts its rows together.
template <int N, bool IsEdge, class Gain>
FREQROB_INLINE void transform_column_back(Column<N> column, Gain gain) {
  constexpr int kOuter = N / 8;
  fft<N, 1, Lanes>(
      [=](int n, Spectrum* z) __attribute__((always_inline)) {
        FREQROB_UNROLL
        for (int m = 0; m < kOuter; ++m) z[m] = gain(8 * m + n, column[8 * m + n]);
      },
      [=](int k, const Spectrum* z) __attribute__((always_inline)) {
        FREQROB_UNROLL
        for (int j = 0; j < 4; ++j) {
          const Spectrum a = z[j], b = z[j + 4];
          column[k + kOuter * j] = IsEdge ? Spectrum{a.re, b.re} : Spectrum{a.re - b.im, a.im + b.re};
          column[k + kOuter * j + N / 2] = IsEdge ? Spectrum{a.im, b.im} : Spectrum{a.re + b.im, b.re - a.im};
        }
      });
}

/// Twice the columns 0 (a) and N/2 (b) at ky, when column 0 has been transformed.
template <int N>
FREQROB_INLINE TwinSpectra<Lanes> edges_at(Spectrum* spectrum, int64_t ky) {
  const Column<N> column(spectrum, 0);
  return separate(column[ky], column[(N - ky) % N]);
}

/// Transforms the columns kx < columns and calls visit(ky, kx, whether another coefficient mirrors it, twice the
/// spectrum, twice each of the spectra of `others`, which have been transformed) on what determines the half spectrum:
/// of the columns 0 and N/2 no more than 0 ≤ ky ≤ N/2.
template <int N, class Visit, class... Others>
FREQROB_INLINE void visit_spectrum(int64_t columns, Visit visit, Spectrum* spectrum, Others*... others) {
  transform_column<N, true>(Column<N>(spectrum, 0), [](int, Spectrum) __attribute__((always_inline)) {});
  for (int64_t ky = 0; ky <= N / 2; ++ky) {
    const bool has_mirror = multiplicity(ky, N) == 2;
    visit(ky, 0, has_mirror, edges_at<N>(spectrum, ky).a, edges_at<N>(others, ky).a...);
    visit(ky, N / 2, has_mirror, edges_at<N>(spectrum, ky).b, edges_at<N>(others, ky).b...);
  }
  for (int64_t kx = 1; kx < columns; ++kx) {
    transform_column<N, false>(Column<N>(spectrum, kx), [=](int ky, Spectrum z) __attribute__((always_inline)) {
      visit(ky, kx, true, z, Column<N>(others, kx)[ky]...);
    });
  }
}

/// A rounded product, which is not fused into a sum.
__attribute__((noinline)) Lanes halved(Lanes v) {
  return v * 0.5f;
}

/// A coefficient's contribution to half of a sum over the full spectrum.
FREQROB_INLINE Lanes share(bool has_mirror, Lanes value) {
  return has_mirror ? value : halved(value);
}

/// Sums value(twice the spectrum, twice each of the others) over the rings, but half of it: rings[1 + i] of ring i,
/// rings[0] of the coefficients on none.
template <int N, class Value, class... Spectra>
void sum_rings(const RingView& map, Lanes* rings, Value value, Spectra*... spectra) {
  for (int64_t i = 0; i <= map.rings; ++i) rings[i] = Lanes{};
  visit_spectrum<N>(
      N / 2,
      [=, half = map.half](int64_t ky, int64_t kx, bool has_mirror, auto... twice) __attribute__((always_inline)) {
        rings[1 + half[ky * (N / 2 + 1) + kx]] += share(has_mirror, value(twice...));
      },
      spectra...);
}

template <int N>
void sum_rings(Spectrum* spectrum, const RingView& map, Lanes* rings, bool amplitude) {
  if (amplitude) return sum_rings<N>(map, rings, Amplitude{}, spectrum);
  sum_rings<N>(map, rings, Power{}, spectrum);
}

/// The scale of gains, which weigh twice a spectrum.
template <int N, class Weigh>
constexpr float kGainUnit = std::is_same_v<Weigh, ByGain> ? 0.5 * Weigh::unit(N * N) : 1;

/// Weighs ring i by gains[1 + i], the rest by gains[0], in kGainUnit, and transforms the columns kx < columns back.
template <int N, class Weigh>
__attribute__((noinline)) void weigh_columns(Spectrum* spectrum, const RingView& map, const Lanes* gains, Weigh factor,
                                             int64_t columns) {
  constexpr int64_t kColumns = N / 2 + 1;
  ++gains;
  for (int64_t kx = 1; kx < columns; ++kx) {
    transform_column_back<N, false>(
        Column<N>(spectrum, kx), [=, half = map.half + kx](int ky, const Spectrum& z) __attribute__((always_inline)) {
          return z * factor(gains[half[ky * kColumns]], z);
        });
  }
  const Column<N> edges(spectrum, 0);
  for (int64_t ky = 0; ky <= N / 2; ++ky) {
    const auto twice = separate(edges[ky], edges[(N - ky) % N]);
    const Lanes a = factor(gains[map.half[ky * kColumns]], twice.a);
    const Lanes b = factor(gains[map.half[ky * kColumns + N / 2]], twice.b);
    if (multiplicity(ky, N) == 1) {
      edges[ky] = {(a + a) * edges[ky].re, (b + b) * edges[ky].im};
    } else {
      weigh(edges[ky], edges[N - ky], a + b, a - b);
    }
  }
  transform_column_back<N, true>(edges, [](int, const Spectrum& z) __attribute__((always_inline)) { return z; });
}

/// The same for all columns and unscaled gains, which it overwrites.
template <int N, class Weigh>
void weigh_rings(Spectrum* spectrum, const RingView& map, Lanes* gains, Weigh factor) {
  for (int64_t i = 0; i <= map.rings; ++i) gains[i] *= kGainUnit<N, Weigh>;
  weigh_columns<N>(spectrum, map, gains, factor, N / 2);
}

/// Writes a value per ring and plane, multiplied by one scale after the other, because their product may overflow.
FREQROB_INLINE void store_rings(const Lanes* rings, int64_t count, Lanes scale, Lanes other_scale, int64_t planes,
                                float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const Lanes value = rings[1 + i] * scale * other_scale;
    for (int64_t plane = 0; plane < planes; ++plane) out[plane * count + i] = value[plane];
  }
}

/// Memory of a kernel: spectra of one or two groups, a value per ring, a plane for results that are discarded.
template <int N>
struct Workspace {
  static constexpr int64_t kElements = N / 2 * kStride<N>;
  Spectrum* first;
  Spectrum* second;
  float* sink;
  Lanes* rings;

  explicit Workspace(void* scratch) {
    first = static_cast<Spectrum*>(scratch);
    second = first + kElements;
    sink = reinterpret_cast<float*>(second + kElements);
    rings = reinterpret_cast<Lanes*>(sink + N * N);
  }

  static int64_t bytes(const RingView& map) {
    return 2 * kElements * sizeof(Spectrum) + N * N * sizeof(float) + (map.rings + 1) * sizeof(Lanes);
  }
};

template <int N>
void ring_sum(const RingSum<float>& call, Groups groups, void* scratch) {
  const Workspace<N> work(scratch);
  for (int64_t index = groups.begin; index < groups.end; ++index) {
    const auto group = gather<N>(call.x, call.planes, index);
    load_rows<N>(group, work.first);
    sum_rings<N>(work.first, call.map, work.rings, call.amplitude);
    const Lanes scale = group.unscale * (call.amplitude ? 1.0f : 0.5f);
    const Lanes other_scale = call.amplitude ? kOnes : group.unscale;
    store_rings(work.rings, call.map.rings, scale, other_scale, group.planes,
                call.out + index * kLanes * call.map.rings);
  }
}

/// Puts the weights of the group's planes into the lanes, scales each plane's near 1, and returns the inverse scales.
Lanes load_weights(const RingFilter<float>& call, int64_t index, int64_t planes, Lanes* gains) {
  const int64_t rings = call.map.rings;
  const float* weights = call.weights + index * kLanes * rings;
  Lanes unscale = kOnes;
  for (int64_t i = 0; i <= rings; ++i) gains[i] = Lanes{};
  for (int64_t plane = 0; plane < planes; ++plane) {
    const float* row = weights + plane * rings;
    const Normaliser<float> power = weights_normaliser(row, rings, call.outside);
    unscale[plane] = power.unscale;
    gains[0][plane] = call.outside * power.scale;
    if (power.scale == 0.0f) continue;
    for (int64_t i = 0; i < rings; ++i) gains[1 + i][plane] = row[i] * power.scale;
  }
  return unscale;
}

template <int N, class Pixel>
FREQROB_INLINE void aim(Pixel** target, Pixel* out, Pixel* sink, int64_t planes) {
  for (int64_t plane = 0; plane < kLanes; ++plane) target[plane] = plane < planes ? out + plane * N * N : sink;
}

template <int N>
void ring_filter(const RingFilter<float>& call, Groups groups, void* scratch) {
  const Workspace<N> work(scratch);
  for (int64_t index = groups.begin; index < groups.end; ++index) {
    const auto group = gather<N>(call.x, call.planes, index);
    const Lanes x_unscale = call.over_amplitude ? group.unscale * group.scale : group.unscale;
    const Lanes unscale = x_unscale * load_weights(call, index, group.planes, work.rings);
    float* target[kLanes];
    aim<N>(target, call.out + index * kLanes * N * N, work.sink, group.planes);
    load_rows<N>(group, work.first);
    transform_columns<N>(work.first);
    if (call.over_amplitude) {
      weigh_rings<N>(work.first, call.map, work.rings, ByGainOverAmplitude{});
    } else {
      weigh_rings<N>(work.first, call.map, work.rings, ByGain{});
    }
    store_rows<N>(work.first, target, unscale, AsIs{});
  }
}

template <int N>
void ring_dot(const RingDot<float>& call, Groups groups, void* scratch) {
  const Workspace<N> work(scratch);
  for (int64_t index = groups.begin; index < groups.end; ++index) {
    const auto x = gather<N>(call.x, call.planes, index);
    const auto y = gather<N>(call.y, call.planes, index);
    load_rows<N>(x, work.first);
    load_rows<N>(y, work.second);
    transform_columns<N>(work.second);
    sum_rings<N>(call.map, work.rings, Product{}, work.first, work.second);
    store_rings(work.rings, call.map.rings, x.unscale * (0.5f / (N * N)), y.unscale, x.planes,
                call.out + index * kLanes * call.map.rings);
  }
}

template <int N>
void amplitude_map(const AmplitudeMap<float>& call, Groups maps, Scratch scratch) {
  constexpr int kColumns = N / 2 + 1;
  const Workspace<N> work(scratch.memory);
  Lanes* const sums = reinterpret_cast<Lanes*>(work.second);
  for (int64_t map = maps.begin; map < maps.end; ++map) {
    for (int64_t k = 0; k < N * kColumns; ++k) sums[k] = Lanes{};
    for (int64_t index = map * kGroupsPerMap; index < (map + 1) * kGroupsPerMap; ++index) {
      if (index * kLanes >= call.planes) break;
      const auto group = gather<N>(call.x, call.planes, index);
      load_rows<N>(group, work.first);
      visit_spectrum<N>(
          N / 2,
          [=, unscale = group.unscale * 0.5f](int64_t ky, int64_t kx, bool, Spectrum twice)
              __attribute__((always_inline)) { sums[ky * kColumns + kx] += Amplitude{}(twice)*unscale; },
          work.first);
    }
    double* const out = call.out + map * N * kColumns;
    for (int64_t k = 0; k < N * kColumns; ++k) {
      const bool is_mirror = k % kColumns % (N / 2) == 0 && 2 * k > N * kColumns;
      const Lanes& of = sums[is_mirror ? (N - k / kColumns) * kColumns + k % kColumns : k];
      out[k] = 0;
      for (int l = 0; l < kLanes; ++l) out[k] += of[l];
    }
  }
}

/// Gains of the group's planes from the ring sums in `rings`. Returns how many rings of each plane changed; a plane
/// whose profile overflows keeps gain 1 and gets NaN through `unscale`.
template <class Pixel>
Lanes bass_gains_of(const Bass<Pixel>& call, Lanes* rings, Lanes& unscale) {
  const Lanes amplitude = unscale * call.unit, unit = call.of_power ? amplitude * amplitude * 0.5f : amplitude;
  for (int64_t i = 0; i < call.map.rings; ++i) rings[1 + i] = rings[1 + i] * unit * call.norms[i];
  const auto total = bass_gains<LanesMath>(&rings[1], 1, call.weighable, call.map.rings, call.of_power);
  const auto fits = total.profile < __FLT_MAX__;
  rings[0] = kOnes;
  for (int64_t i = 1; i <= call.map.rings; ++i) rings[i] = fits ? rings[i] : kOnes;
  unscale = fits ? unscale : kOnes * __builtin_nanf("");
  return total.eligible;
}

/// A plane with fewer than two eligible rings is unchanged by definition: it is copied, because rounding would change
/// it.
template <int N, class Pixel>
void keep_unchanged(const Group<Pixel>& group, Lanes eligible, Pixel** target, Pixel* sink) {
  for (int64_t plane = 0; plane < group.planes; ++plane) {
    const bool is_finite = group.unscale[plane] > 0;
    if (eligible[plane] > 1.5f || !is_finite) continue;
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
    Lanes unscale = group.unscale;
    Pixel* target[kLanes];
    aim<N>(target, call.out + index * kLanes * N * N, sink, group.planes);
    load_rows<N>(group, work.first);
    sum_rings<N>(work.first, call.map, work.rings, !call.of_power);
    const Lanes eligible = bass_gains_of(call, work.rings, unscale);
    keep_unchanged<N>(group, eligible, target, sink);
    weigh_rings<N>(work.first, call.map, work.rings, ByGain{});
    store_rows<N>(work.first, target, unscale, Clipped<float>{call.white});
  }
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA
