// The fused ops on one plane, by a team of threads. `plane` is the plane's number.
#pragma once

#include <cstdint>

#include "plane.h"

namespace freqrob::plane {

struct RingSum {
  const int32_t* half;  // (N, N/2 + 1)
  int rings;
  const float* x;  // (planes, N, N)
  float* out;      // (planes, rings)
  int64_t planes;
  bool of_amplitude;
};

struct RingFilter {
  const int32_t* half;
  int rings;
  const float* x;        // (planes, N, N)
  const float* weights;  // (planes, rings)
  float* out;            // (planes, N, N)
  int64_t planes;
  float outside;  // gain of the coefficients on no ring
};

struct RingDot {
  const int32_t* half;
  int rings;
  const float* x;  // (planes, N, N)
  const float* y;  // (planes, N, N)
  float* out;      // (planes, rings)
  int64_t planes;
};

struct Bass {
  const int32_t* half;
  int rings;
  const void* x;  // (planes, N, N)
  void* out;      // (planes, N, N), may be x
  int64_t planes;
  PixelType pixels;
  float unit;   // pixel scale of the logarithm over the value of white in x
  float white;  // value of white in x
  bool of_power;
};

struct AmplitudeSums {
  const float* x;  // (planes, N, N)
  float* out;      // (teams, N/2 + 1, N): Σ |F| over the planes of each team
  int64_t planes;
  int64_t teams;
};

template <class Shape, class Team>
FREQROB_DEVICE void run(Team team, const RingSum& call, int64_t plane, const Rings<Shape::N>& rings,
                        Shared<Shape>& shared) {
  typename Team::template Each<Line<Shape>> lines;
  load_plane<Shape>(team, call.x + plane * Shape::N * Shape::N, lines);
  to_spectrum<Shape>(team, lines, shared);
  sum_spectrum<Shape>(team, rings, lines, shared, call.of_amplitude);
  team.each([&](int t) {
    for (int ring = t; ring < call.rings; ring += Shape::kThreads) {
      call.out[plane * call.rings + ring] = shared.profile[ring];
    }
  });
}

template <class Shape, class Team>
FREQROB_DEVICE void run(Team team, const RingFilter& call, int64_t plane, const Rings<Shape::N>& rings,
                        Shared<Shape>& shared) {
  constexpr int N = Shape::N;
  typename Team::template Each<Line<Shape>> lines;
  load_plane<Shape>(team, call.x + plane * N * N, lines);
  to_spectrum<Shape>(team, lines, shared);
  team.each([&](int t) {
    for (int ring = t; ring <= call.rings; ring += Shape::kThreads) {
      shared.gains[ring] = ring < call.rings ? call.weights[plane * call.rings + ring] : call.outside;
    }
  });
  share_line_0<Shape>(team, lines, shared);
  weigh_rings<Shape>(team, rings, lines, shared);
  to_plane<Shape>(team, lines, shared);
  store_plane<Shape>(team, lines, call.out + plane * N * N,
                     [](int, Complex<float> two) { return Neighbours<float>{two.re, two.im}; });
}

/// A team's sums over its planes.
template <class Shape>
struct AmplitudeCells {
  float lines[Shape::N * Shape::kLines];
  Complex<float> packed[Shape::N / 2 + 1];  // of the rows 0 and N/2
};

/// What a team shares of another spectrum.
template <class Shape>
struct SharedSpectrum {
  Complex<float> lines[Shape::N * Shape::kLines];
  Complex<float> packed[Shape::N];
};

template <class Shape, class Team>
FREQROB_DEVICE void run(Team team, const RingDot& call, int64_t plane, const Rings<Shape::N>& rings,
                        Shared<Shape>& shared, SharedSpectrum<Shape>& of_x) {
  constexpr int N = Shape::N;
  typename Team::template Each<Line<Shape>> lines;
  load_plane<Shape>(team, call.x + plane * N * N, lines);
  to_spectrum<Shape>(team, lines, shared);
  team.each([&](int t) {
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) {
      of_x.lines[Shape::kThreads * i + t] = lines[t].values[i];
      if (Shape::line(t) == 0) of_x.packed[Shape::frequency(t, i)] = lines[t].values[i];
    }
  });
  load_plane<Shape>(team, call.y + plane * N * N, lines);
  to_spectrum<Shape>(team, lines, shared);
  share_line_0<Shape>(team, lines, shared);
  const auto product = [](Complex<float> a, Complex<float> b) { return a.re * b.re + a.im * b.im; };
  sum_rings<Shape>(
      team, rings, shared,
      [&](int t, int i) { return 0.5f * product(of_x.lines[Shape::kThreads * i + t], lines[t].values[i]); },
      [&](int kx, int mirror) {
        const auto x = separate(of_x.packed[kx], of_x.packed[mirror]);
        const auto y = separate(shared.packed[kx], shared.packed[mirror]);
        return Complex<float>{0.25f * product(x.a, y.a), 0.25f * product(x.b, y.b)};
      });
  team.each([&](int t) {
    for (int ring = t; ring < call.rings; ring += Shape::kThreads) {
      call.out[plane * call.rings + ring] = shared.profile[ring] / (N * N);
    }
  });
}

/// Turns shared.profile, sums over each ring of |F| or |F|², into shared.gains; all are NaN if a sum is not finite.
/// Returns whether the plane changes at all: with fewer than two rings to balance it does not.
template <class Shape, class Team>
FREQROB_DEVICE bool bass_gains_of(Team team, const Rings<Shape::N>& rings, Shared<Shape>& shared, float unit,
                                  bool of_power) {
  team.each([&](int t) {
    for (int ring = t; ring <= rings.count; ring += Shape::kThreads) {
      const bool may_change = 0 < ring && ring < rings.count - 1 && rings.multiplicity[ring] > 0;
      const float norm = of_power ? unit * unit : unit / rings.multiplicity[ring];
      shared.shares[ring] = may_change ? bass_share<FloatMath>(shared.profile[ring] * norm) : BassTotals<float>{};
    }
  });
  BassTotals<float> total = {};
  float sum = 0;
  for (int ring = 0; ring <= rings.count; ++ring) {
    total.profile += shared.shares[ring].profile;
    total.log_profile += shared.shares[ring].log_profile;
    total.eligible += shared.shares[ring].eligible;
    sum += shared.profile[ring];
  }
  const bool is_finite = is_number(sum) && is_number(total.profile);
  const float ratio = total.profile / total.log_profile;
  team.each([&](int t) {
    for (int ring = t; ring <= rings.count; ring += Shape::kThreads) {
      const BassTotals<float> share = shared.shares[ring];
      const float quotient = share.eligible > 0 ? share.log_profile / share.profile : 0.0f;
      shared.gains[ring] = is_finite ? bass_gain<FloatMath>(quotient, ratio, of_power) : NAN;
    }
  });
  return !is_finite || total.eligible > 1;
}

/// Calls task(Pixel{}) with the type of the pixels: only what reads and writes them exists for every type.
template <class Task>
FREQROB_DEVICE void for_pixels(PixelType type, Task task) {
  switch (type) {
    case PixelType::kFloat32:
      return task(float{});
    case PixelType::kBFloat16:
      return task(BFloat16{});
    case PixelType::kUInt8:
      return task(uint8_t{});
  }
}

template <class Shape, class Team>
FREQROB_DEVICE void run(Team team, const Bass& call, int64_t plane, const Rings<Shape::N>& rings,
                        Shared<Shape>& shared) {
  const int64_t first = plane * Shape::N * Shape::N;
  typename Team::template Each<Line<Shape>> lines;
  for_pixels(call.pixels,
             [&]<class Pixel>(Pixel) { load_plane<Shape>(team, static_cast<const Pixel*>(call.x) + first, lines); });
  to_spectrum<Shape>(team, lines, shared);
  sum_spectrum<Shape>(team, rings, lines, shared, !call.of_power);
  const bool changes = bass_gains_of<Shape>(team, rings, shared, call.unit, call.of_power);
  weigh_rings<Shape>(team, rings, lines, shared);
  to_plane<Shape>(team, lines, shared);
  for_pixels(call.pixels, [&]<class Pixel>(Pixel) {
    const Pixel* x = static_cast<const Pixel*>(call.x) + first;
    Pixel* out = static_cast<Pixel*>(call.out) + first;
    store_plane<Shape>(team, lines, out, [&](int at, Complex<float> two) {
      if (!changes) return *reinterpret_cast<const Neighbours<Pixel>*>(x + at);
      return Neighbours<Pixel>{from_float<Pixel>(clip(two.re, call.white)),
                               from_float<Pixel>(clip(two.im, call.white))};
    });
  });
}

/// Adds up the amplitudes of the planes `team_number`, `team_number + teams`, … .
template <class Shape, class Team>
FREQROB_DEVICE void run(Team team, const AmplitudeSums& call, int64_t team_number, Shared<Shape>& shared,
                        AmplitudeCells<Shape>& cells) {
  constexpr int N = Shape::N;
  const auto cell = [&](int t, int i) -> float& { return cells.lines[Shape::kThreads * i + t]; };
  typename Team::template Each<Line<Shape>> lines;
  team.each([&](int t) {
    for (int i = 0; i < Shape::kValues; ++i) cell(t, i) = 0;
    visit_line_0<Shape>(t, [&](int kx, int) { cells.packed[kx] = {}; });
  });
  for (int64_t plane = team_number; plane < call.planes; plane += call.teams) {
    load_plane<Shape>(team, call.x + plane * N * N, lines);
    to_spectrum<Shape>(team, lines, shared);
    share_line_0<Shape>(team, lines, shared);
    team.each([&](int t) {
      FREQROB_UNROLL
      for (int i = 0; i < Shape::kValues; ++i) cell(t, i) += 0.5f * amplitude(lines[t].values[i]);
      visit_line_0<Shape>(t, [&](int kx, int mirror) {
        const auto twice = separate(shared.packed[kx], shared.packed[mirror]);
        const Complex<float> both = {0.5f * amplitude(twice.a), 0.5f * amplitude(twice.b)};
        cells.packed[kx] = cells.packed[kx] + both;
      });
    });
  }
  float* out = call.out + team_number * (N / 2 + 1) * N;
  team.each([&](int t) {
    const int ky = Shape::line(t);
    for (int i = 0; ky != 0 && i < Shape::kValues; ++i) out[ky * N + Shape::frequency(t, i)] = cell(t, i);
    visit_line_0<Shape>(t, [&](int kx, int mirror) {
      out[kx] = out[mirror] = cells.packed[kx].re;
      out[N / 2 * N + kx] = out[N / 2 * N + mirror] = cells.packed[kx].im;
    });
  });
}

/// Mean amplitude at coefficient k of rfft2 (N, N/2 + 1) from the sums of the teams.
FREQROB_DEVICE float mean_amplitude(const float* sums, int64_t teams, int64_t planes, int N, int k) {
  const int ky = k / (N / 2 + 1), kx = k % (N / 2 + 1);
  const int at = ky <= N / 2 ? ky * N + kx : (N - ky) * N + (N - kx) % N;
  double sum = 0;
  for (int64_t team = 0; team < teams; ++team) sum += sums[team * (N / 2 + 1) * N + at];
  return static_cast<float>(sum / planes);
}

}  // namespace freqrob::plane
