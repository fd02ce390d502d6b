// The fused kernels for a few planes, with which most lanes of plane_per_lane.h would be empty. They process one plane
// at a time: first neighbouring rows share a vector, then neighbouring columns of the spectrum. The transforms and the
// weighing are the functions of plane_per_lane.h, which do not depend on what the lanes hold, and sums are added in the
// same order, so that a plane gets the same bits from both.
#pragma once

#include "plane_per_lane.h"

namespace freqrob::cpu::FREQROB_ISA::few_planes {
namespace {

/// Looks up kLanes gains at a time.
class Table {
 public:
  static constexpr int64_t kLeast = 64;  // `gains` has at least this size

  Table(const float* gains, int64_t rings) : gains_(gains), rings_(rings) {
#if FREQROB_LANES == 16
    for (int i = 0; i < 4; ++i) parts_[i] = __m512(load(gains + i * kLanes));
    parts_[rings < 32 ? 1 : 3] = _mm512_mask_mov_ps(parts_[rings < 32 ? 1 : 3], 0x8000, _mm512_set1_ps(gains[-1]));
#endif
  }

  /// gains[of[l]] in lane l.
  FREQROB_INLINE Lanes operator[](const int32_t* of) const {
#if FREQROB_LANES == 16  // instead of a gather, where two or four vectors hold all gains; -1 is the last of them
    const __m512i at = _mm512_loadu_si512(of);
    const __m512 low = _mm512_permutex2var_ps(parts_[0], at, parts_[1]);
    if (rings_ < 32) return Lanes(low);
    const __m512 high = _mm512_permutex2var_ps(parts_[2], at, parts_[3]);
    const __mmask16 is_high = _mm512_test_epi32_mask(at, _mm512_set1_epi32(32));
    if (rings_ < 64) return Lanes(_mm512_mask_mov_ps(low, is_high, high));
#endif
    return look_up(gains_, of);
  }

 private:
  const float* gains_;
  int64_t rings_;
#if FREQROB_LANES == 16
  __m512 parts_[4];
#endif
};

// The functions of plane_per_lane.h see a plane as a group with the columns kx ≤ kBlocks: lane l of the group's column
// 1 + c is the plane's column kLanes · c + l. The plane's columns 0 and N/2 are together lane 0 of the group's column
// 0; lane 0 of its column 1, where column 0 would be, is computed but not used.

template <int N>
constexpr int kBlocks = N / 2 / kLanes;

/// Ring map of such a group, with a ring for each of its coefficients: c · N + ky for column 1 + c, whose first lane is
/// of column 0 of the plane, and kMiddle + ky for column N/2.
template <int N>
struct Coefficients {
  static constexpr int kColumns = N / 2 + 1;
  static constexpr int kMiddle = kBlocks<N> * N;
  static constexpr int kCount = kMiddle + N;
  int32_t half[N * kColumns];

  consteval Coefficients() : half() {
    for (int ky = 0; ky < N; ++ky) {
      for (int c = 0; c < kBlocks<N>; ++c) half[ky * kColumns + 1 + c] = c * N + ky;
      half[ky * kColumns] = ky;
      half[ky * kColumns + N / 2] = kMiddle + ky;
    }
  }

  constexpr RingView view() const { return {half, N, N, kCount}; }
};

template <int N>
constexpr Coefficients<N> kCoefficients{};

/// The places of each ring's values, in the order in which plane_per_lane.h adds them.
template <int N>
struct Places {
  static constexpr int kColumns = N / 2 + 1;
  static constexpr int kZero = kBlocks<N> * N;      // first vector of column 0
  static constexpr int kMiddle = kZero + kColumns;  // and of column N/2; that of column kx is kx / kLanes · N
  static constexpr int kCount = kMiddle + kColumns;

  uint16_t* of;    // of all rings, one after the other
  int32_t* first;  // of each ring; the last entry ends the last ring

  Places(Memory& memory, const RingView& map)
      : of(memory.take<uint16_t>(N * kColumns)), first(memory.take<int32_t>(map.rings + 2)) {}

  /// Calls task(ring, place) on each value in order.
  template <class Task>
  static void visit(const RingView& map, Task task) {
    constexpr int kOuter = N / 8;
    for (int ky = 0; ky <= N / 2; ++ky) {
      task(map.half[ky * kColumns], (kZero + ky) * kLanes);
      task(map.half[ky * kColumns + N / 2], (kMiddle + ky) * kLanes);
    }
    for (int kx = 1; kx < N / 2; ++kx) {
      for (int i = 0; i < N; ++i) {
        const int ky = i / 8 + i % 8 * kOuter;
        task(map.half[ky * kColumns + kx], (kx / kLanes * N + ky) * kLanes + kx % kLanes);
      }
    }
  }

  void prepare(const RingView& map) const {
    int32_t* const next = first + 1;
    for (int64_t ring = -1; ring <= map.rings; ++ring) next[ring] = 0;
    visit(map, [=](int32_t ring, int) { next[ring < 0 ? map.rings : ring] += ring >= 0; });
    int32_t begin = 0;
    for (int64_t ring = 0; ring < map.rings; ++ring) {
      const int32_t count = next[ring];
      next[ring] = begin;
      begin += count;
    }
    visit(map, [next, places = of](int32_t ring, int place) {
      if (ring >= 0) places[next[ring]++] = static_cast<uint16_t>(place);
    });
  }
};

/// Memory of a kernel.
template <int N>
struct Workspace {
  Places<N> places;
  void* rest;  // for the kernels of plane_per_lane.h
  Spectrum* rows;
  Spectrum* first;
  Spectrum* second;
  Lanes* gains;   // of Coefficients, after that of none
  float* values;  // of Places
  float* rings;   // sums or gains of the plane's rings; those of no ring are before them
  float* shares;
  int64_t padded;  // room for all rings in whole vectors

  Workspace(Memory& memory, const RingView& map)
      : places(memory, map),
        rest(memory.take<Lanes>(0)),
        rows(memory.take<Spectrum>(N)),
        first(memory.take<Spectrum>(N / 2 * kStride<N>)),
        second(memory.take<Spectrum>(N / 2 * kStride<N>)),
        gains(memory.take<Lanes>(1 + Coefficients<N>::kCount)),
        values(memory.take<float>(Places<N>::kCount * kLanes)),
        padded(Table::kLeast + (map.rings + kLanes - 1) / kLanes * kLanes) {
    rings = memory.take<float>(16 + padded) + 16;
    shares = memory.take<float>(2 * padded);
  }
};

/// Transposes kLanes vectors read(0), read(1), … and calls write(l, vector).
template <class Read, class Write>
FREQROB_INLINE void turn_over(Read read, Write write) {
  Lanes block[kLanes];
  FREQROB_UNROLL
  for (int l = 0; l < kLanes; ++l) block[l] = read(l);
  transpose(block);
  FREQROB_UNROLL
  for (int l = 0; l < kLanes; ++l) write(l, block[l]);
}

/// Where a row has column N - kx; what goes with column 0 is column N/2.
template <int N>
FREQROB_INLINE int opposite(int kx) {
  return kx == 0 ? N / 2 : N - kx;
}

constexpr Integers kIsFirst = {-1};

/// Reads scale · plane, transforms its rows and turns them to columns.
template <int N, class Pixel>
__attribute__((noinline)) void load_plane(const Pixel* plane, float scale, Spectrum* rows, Spectrum* spectrum) {
  for (int block = 0; block < kBlocks<N>; ++block) {
    const Pixel* source[kLanes];
    for (int l = 0; l < kLanes; ++l) source[l] = plane + (block * kLanes + l) * N;
    load_row_pair<N>(source, 0, Lanes{} + scale, rows);
    Spectrum* const to = spectrum + block * kLanes * kStride<N>;
    for (int c = 0; c < kBlocks<N>; ++c) {
      const auto at = [=](int l) __attribute__((always_inline)) -> const Spectrum& { return rows[c * kLanes + l]; };
      const auto mirror = [=](int l) __attribute__((always_inline)) -> const Spectrum& {
        return rows[opposite<N>(c * kLanes + l)];
      };
      Spectrum* const upper = to + 1 + c;
      Spectrum* const lower = to + N - 1 - c;
      turn_over([=](int l) { return at(l).re; }, [=](int l, Lanes v) { upper[l * kStride<N>].re = v; });
      turn_over([=](int l) { return at(l).im; }, [=](int l, Lanes v) { upper[l * kStride<N>].im = v; });
      turn_over([=](int l) { return mirror(l).re; }, [=](int l, Lanes v) { lower[l * kStride<N>].re = v; });
      turn_over([=](int l) { return mirror(l).im; }, [=](int l, Lanes v) { lower[l * kStride<N>].im = v; });
    }
    for (int l = 0; l < kLanes; ++l) {
      to[l * kStride<N>] = to[l * kStride<N> + 1];
      to[l * kStride<N> + N / 2] = to[l * kStride<N> + N - 1];
    }
  }
}

/// Turns the columns to rows, transforms them back and writes finish(value) to the plane.
template <int N, class Pixel, class Finish>
__attribute__((noinline)) void store_plane(Spectrum* spectrum, Spectrum* rows, Pixel* plane, float unscale,
                                           Finish finish) {
  for (int block = 0; block < kBlocks<N>; ++block) {
    Spectrum* const from = spectrum + block * kLanes * kStride<N>;
    for (int c = 0; c < kBlocks<N>; ++c) {
      const auto at = [=](int l) __attribute__((always_inline)) -> Spectrum& { return rows[c * kLanes + l]; };
      const auto mirror = [=](int l)
                              __attribute__((always_inline)) -> Spectrum& { return rows[opposite<N>(c * kLanes + l)]; };
      const Spectrum* const upper = from + 1 + c;
      const Spectrum* const lower = from + N - 1 - c;
      const auto is_edge = c == 0 ? kIsFirst : Integers{};
      const auto with_edge = [=](const Lanes& edge, const Lanes& v)
                                 __attribute__((always_inline)) { return is_edge ? edge : v; };
      turn_over([=](int l) { return with_edge(from[l * kStride<N>].re, upper[l * kStride<N>].re); },
                [=](int l, Lanes v) { at(l).re = v; });
      turn_over([=](int l) { return with_edge(from[l * kStride<N>].im, upper[l * kStride<N>].im); },
                [=](int l, Lanes v) { at(l).im = v; });
      turn_over([=](int l) { return with_edge(from[l * kStride<N> + N / 2].re, lower[l * kStride<N>].re); },
                [=](int l, Lanes v) { mirror(l).re = v; });
      turn_over([=](int l) { return with_edge(from[l * kStride<N> + N / 2].im, lower[l * kStride<N>].im); },
                [=](int l, Lanes v) { mirror(l).im = v; });
    }
    fft_line<N, 1>(rows);
    Pixel* target[kLanes];
    for (int l = 0; l < kLanes; ++l) target[l] = plane + (block * kLanes + l) * N;
    store_row_pair<N, kLanes>(rows, target, 0, 0, Lanes{} + unscale, finish);
  }
}

/// Transforms the columns and leaves value(twice the spectrum, twice each of the others) of each coefficient.
template <int N, class Value, class... Spectra>
__attribute__((noinline)) void take_values(float* values, Value value, Spectra*... spectra) {
  using To = Places<N>;
  visit_spectrum<N>(
      1 + kBlocks<N>,
      [=](int64_t ky, int64_t kx, bool has_mirror, auto... twice) __attribute__((always_inline)) {
        const int64_t column = kx == 0 ? To::kZero : kx == N / 2 ? To::kMiddle : (kx - 1) * N;
        store(values + (column + ky) * kLanes, share(has_mirror, value(twice...)));
      },
      spectra...);
}

/// Sums values over the rings.
template <int N>
__attribute__((noinline)) void add_values(const Workspace<N>& work, int64_t rings) {
  const uint16_t* place = work.places.of;
  for (int64_t ring = 0; ring < rings; ++ring) {
    const uint16_t* const end = work.places.of + work.places.first[ring + 1];
    float sum = 0;
    for (; place != end; ++place) sum += work.values[*place];
    work.rings[ring] = sum;
  }
}

/// Weighs ring i of the plane by rings[i], the rest by rings[-1], and transforms the columns back.
template <int N, class Weigh>
__attribute__((noinline)) void weigh_plane(const Workspace<N>& work, const RingView& map, Weigh factor) {
  using To = Coefficients<N>;
  for (int64_t i = -1; i < map.rings; ++i) work.rings[i] *= kGainUnit<N, Weigh>;
  const Table table(work.rings, map.rings);
  Lanes* const gains = work.gains + 1;
  for (int ky = 0; ky < N; ++ky) {
    const int32_t* half = map.half + ky * To::kColumns;
    for (int c = 0; c < kBlocks<N>; ++c) gains[c * N + ky] = table[half + c * kLanes];
  }
  for (int ky = 0; ky <= N / 2; ++ky) {
    gains[To::kMiddle + ky] = Lanes{} + work.rings[map.half[ky * To::kColumns + N / 2]];
  }
  weigh_columns<N>(work.first, kCoefficients<N>.view(), work.gains, factor, 1 + kBlocks<N>);
}

/// A plane's pixels, or zeros if one is not finite, and what brings them near 1.
template <class Pixel>
struct Source {
  const Pixel* pixels;
  Normaliser<float> power;  // NaN, to undo it, if one is not finite
};

template <int N, class Pixel>
Source<Pixel> source_of(const Pixel* plane) {
  const Normaliser<float> power = normaliser(plane, N * N);
  if (power.scale > 0) return {plane, power};
  return {reinterpret_cast<const Pixel*>(kZeros), power};
}

/// Reads a plane and transforms its rows.
template <int N, class Pixel>
Source<Pixel> load_plane(const Workspace<N>& work, const Pixel* plane, Spectrum* spectrum) {
  const auto source = source_of<N>(plane);
  load_plane<N>(source.pixels, source.power.scale, work.rows, spectrum);
  return source;
}

template <int N>
void sum_rings(const Workspace<N>& work, const RingView& map, bool amplitude) {
  if (amplitude) {
    take_values<N>(work.values, Amplitude{}, work.first);
  } else {
    take_values<N>(work.values, Power{}, work.first);
  }
  add_values<N>(work, map.rings);
}

/// Writes a value per ring, times both scales.
FREQROB_INLINE void store_rings(const float* rings, int64_t count, float scale, float other_scale, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = rings[i] * scale * other_scale;
}

template <int N>
void ring_sum(const RingSum<float>& call, const Workspace<N>& work, Groups planes) {
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const float unscale = load_plane<N>(work, call.x + plane * N * N, work.first).power.unscale;
    sum_rings<N>(work, call.map, call.amplitude);
    store_rings(work.rings, call.map.rings, unscale * (call.amplitude ? 1.0f : 0.5f), call.amplitude ? 1.0f : unscale,
                call.out + plane * call.map.rings);
  }
}

template <int N>
void ring_filter(const RingFilter<float>& call, const Workspace<N>& work, Groups planes) {
  const int64_t rings = call.map.rings;
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const float* weights = call.weights + plane * rings;
    const Normaliser<float> weight = weights_normaliser(weights, rings, call.outside);
    work.rings[-1] = call.outside * weight.scale;
    for (int64_t i = 0; i < rings; ++i) work.rings[i] = weight.scale > 0 ? weights[i] * weight.scale : 0;
    const Normaliser<float> power = load_plane<N>(work, call.x + plane * N * N, work.first).power;
    transform_columns<N>(work.first, 1 + kBlocks<N>);
    if (call.over_amplitude) {
      weigh_plane<N>(work, call.map, ByGainOverAmplitude{});
    } else {
      weigh_plane<N>(work, call.map, ByGain{});
    }
    const float unscale = call.over_amplitude ? power.unscale * power.scale : power.unscale;
    store_plane<N>(work.first, work.rows, call.out + plane * N * N, unscale * weight.unscale, AsIs{});
  }
}

template <int N>
void ring_dot(const RingDot<float>& call, const Workspace<N>& work, Groups planes) {
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    const float x_unscale = load_plane<N>(work, call.x + plane * N * N, work.first).power.unscale;
    const float y_unscale = load_plane<N>(work, call.y + plane * N * N, work.second).power.unscale;
    transform_columns<N>(work.second, 1 + kBlocks<N>);
    take_values<N>(work.values, Product{}, work.first, work.second);
    add_values<N>(work, call.map.rings);
    store_rings(work.rings, call.map.rings, x_unscale * (0.5f / (N * N)), y_unscale, call.out + plane * call.map.rings);
  }
}

/// Gains of the plane from its ring sums, as `bass_gains`, with one ring to a lane.
template <int N, class Pixel>
BassTotals<float> bass_gains_of(const Workspace<N>& work, const Bass<Pixel>& call, float unscale) {
  const int64_t rings = call.map.rings;
  const float amplitude = unscale * call.unit, unit = call.of_power ? amplitude * amplitude * 0.5f : amplitude;
  float* const own = work.shares;
  float* const logarithm = own + work.padded;
  for (int64_t i = 0; i < rings; i += kLanes) {
    const Lanes a = load(work.rings + i) * (Lanes{} + unit) * load(call.norms + i);
    const auto is_weighable = load(reinterpret_cast<const uint8_t*>(call.weighable + i)) > 0.5f;
    const auto share = bass_share<LanesMath>(is_weighable ? a : Lanes{});
    store(own + i, share.profile);
    store(logarithm + i, share.log_profile);
    store(work.rings + i, share.eligible > 0 ? share.log_profile / share.profile : Lanes{});
  }
  BassTotals<float> total = {0, 0, 0};
  for (int64_t i = 0; i < rings; ++i) {
    total.profile += own[i];
    total.log_profile += logarithm[i];
    total.eligible += own[i] > 0;
  }
  const Lanes ratio = Lanes{} + total.profile / total.log_profile;
  for (int64_t i = 0; i < rings; i += kLanes) {
    store(work.rings + i, bass_gain<LanesMath>(load(work.rings + i), ratio, call.of_power));
  }
  return total;
}

template <int N, class Pixel>
void bass(const Bass<Pixel>& call, const Workspace<N>& work, Groups planes) {
  for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
    Pixel* const out = call.out + plane * N * N;
    const auto source = load_plane<N>(work, call.x + plane * N * N, work.first);
    float unscale = source.power.unscale;
    sum_rings<N>(work, call.map, !call.of_power);
    const auto total = bass_gains_of<N>(work, call, unscale);
    if (source.power.scale > 0 && total.eligible < 2) {
      if (out != source.pixels) __builtin_memcpy(out, source.pixels, N * N * sizeof(Pixel));
      continue;
    }
    work.rings[-1] = 1;
    if (!(total.profile < __FLT_MAX__)) {
      for (int64_t i = 0; i < call.map.rings; ++i) work.rings[i] = 1;
      unscale = __builtin_nanf("");
    }
    weigh_plane<N>(work, call.map, ByGain{});
    store_plane<N>(work.first, work.rows, out, unscale, Clipped<float>{call.white});
  }
}

/// How many planes are faster one by one than as a group; measured.
template <int N>
constexpr int64_t kFew = kLanes / 4 + (N == 32 ? 1 : 2);

template <int N>
int64_t scratch_bytes(const RingView& map) {
  const int64_t few = Memory::bytes_of<Workspace<N>>(map), places = Memory::bytes_of<Places<N>>(map);
  const int64_t group = places + FREQROB_ISA::Workspace<N>::bytes(map);
  return few > group ? few : group;
}

/// Calls by_group(call, groups, scratch), and for a last group of few planes by_plane(call, workspace, planes).
template <int N, class Call, auto by_group, auto by_plane>
void by_number(const Call& call, Groups groups, Scratch scratch) {
  const Workspace<N> work = Memory::of<Workspace<N>>(scratch.memory, call.map);
  if (!scratch.is_prepared) work.places.prepare(call.map);
  const int64_t last = call.planes / kLanes;
  const bool has_few = groups.end > last && call.planes - last * kLanes <= kFew<N>;
  if (has_few) groups.end = last;
  if (groups.begin < groups.end) by_group(call, groups, work.rest);
  if (has_few) by_plane(call, work, {last * kLanes, call.planes});
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA::few_planes
