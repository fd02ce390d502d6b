// The fused ops on one plane, by a team of threads. `plane` is the plane's number.
#pragma once

#include <cstdint>

#include "bass_team.h"
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

/// The shared memory of a team.
template <class Shape, class Call>
struct Workspace {
  Shared<Shape> shared;
};

template <class Shape>
struct Workspace<Shape, RingDot> {
  Shared<Shape> shared;
  Complex<float> lines_of_x[Shape::N * Shape::kLines];
  Complex<float> packed_of_x[Shape::N];
};

template <class Shape>
struct Workspace<Shape, AmplitudeSums> {
  Shared<Shape> shared;
  float sums[Shape::N * Shape::kLines];
  Complex<float> packed_sums[Shape::N / 2 + 1];  // of the rows 0 and N/2
};

template <class Shape, class Team>
FREQROB_DEVICE void run(Team team, const RingSum& call, int64_t plane, const Rings<Shape::N>& rings,
                        Workspace<Shape, RingSum>& work) {
  Shared<Shape>& shared = work.shared;
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
                        Workspace<Shape, RingFilter>& work) {
  constexpr int N = Shape::N;
  Shared<Shape>& shared = work.shared;
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

template <class Shape, class Team>
FREQROB_DEVICE void run(Team team, const RingDot& call, int64_t plane, const Rings<Shape::N>& rings,
                        Workspace<Shape, RingDot>& work) {
  constexpr int N = Shape::N;
  Shared<Shape>& shared = work.shared;
  typename Team::template Each<Line<Shape>> lines;
  load_plane<Shape>(team, call.x + plane * N * N, lines);
  to_spectrum<Shape>(team, lines, shared);
  team.each([&](int t) {
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) {
      work.lines_of_x[Shape::kThreads * i + t] = lines[t].values[i];
      if (Shape::line(t) == 0) work.packed_of_x[Shape::frequency(t, i)] = lines[t].values[i];
    }
  });
  load_plane<Shape>(team, call.y + plane * N * N, lines);
  to_spectrum<Shape>(team, lines, shared);
  share_line_0<Shape>(team, lines, shared);
  const auto product = [](Complex<float> a, Complex<float> b) { return a.re * b.re + a.im * b.im; };
  sum_rings<Shape>(
      team, rings, shared,
      [&](int t, int i) { return 0.5f * product(work.lines_of_x[Shape::kThreads * i + t], lines[t].values[i]); },
      [&](int kx, int mirror) {
        const auto x = separate(work.packed_of_x[kx], work.packed_of_x[mirror]);
        const auto y = separate(shared.packed[kx], shared.packed[mirror]);
        return Complex<float>{0.25f * product(x.a, y.a), 0.25f * product(x.b, y.b)};
      });
  team.each([&](int t) {
    for (int ring = t; ring < call.rings; ring += Shape::kThreads) {
      call.out[plane * call.rings + ring] = shared.profile[ring] / (N * N);
    }
  });
}

template <class Shape, class Team>
FREQROB_DEVICE void run(Team team, const Bass& call, int64_t plane, const Rings<Shape::N>& rings,
                        Workspace<Shape, Bass>& work) {
  Shared<Shape>& shared = work.shared;
  const int64_t first = plane * Shape::N * Shape::N;
  typename Team::template Each<Line<Shape>> lines;
  for_pixels(call.pixels,
             [&]<class Pixel>(Pixel) { load_plane<Shape>(team, static_cast<const Pixel*>(call.x) + first, lines); });
  to_spectrum<Shape>(team, lines, shared);
  sum_spectrum<Shape>(team, rings, lines, shared, !call.of_power);
  const bool changes =
      bass_gains_of(team, BassProfile{rings.multiplicity, rings.count, shared.profile, shared.shares, shared.gains},
                    call.unit, call.of_power);
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
FREQROB_DEVICE void run(Team team, const AmplitudeSums& call, int64_t team_number,
                        Workspace<Shape, AmplitudeSums>& work) {
  constexpr int N = Shape::N;
  Shared<Shape>& shared = work.shared;
  const auto cell = [&](int t, int i) -> float& { return work.sums[Shape::kThreads * i + t]; };
  typename Team::template Each<Line<Shape>> lines;
  team.each([&](int t) {
    for (int i = 0; i < Shape::kValues; ++i) cell(t, i) = 0;
    visit_line_0<Shape>(t, [&](int kx, int) { work.packed_sums[kx] = {}; });
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
        work.packed_sums[kx] = work.packed_sums[kx] + both;
      });
    });
  }
  float* out = call.out + team_number * (N / 2 + 1) * N;
  team.each([&](int t) {
    const int ky = Shape::line(t);
    for (int i = 0; ky != 0 && i < Shape::kValues; ++i) out[ky * N + Shape::frequency(t, i)] = cell(t, i);
    visit_line_0<Shape>(t, [&](int kx, int mirror) {
      out[kx] = out[mirror] = work.packed_sums[kx].re;
      out[N / 2 * N + kx] = out[N / 2 * N + mirror] = work.packed_sums[kx].im;
    });
  });
}

/// Σ |F| at coefficient k of rfft2 (N, N/2 + 1), of the teams `first`, `first + step`, … .
FREQROB_DEVICE double sum_amplitudes(const AmplitudeSums& call, int N, int k, int64_t first, int64_t step) {
  const int ky = k / (N / 2 + 1), kx = k % (N / 2 + 1);
  const int at = ky <= N / 2 ? ky * N + kx : (N - ky) * N + (N - kx) % N;
  double sum = 0;
  for (int64_t team = first; team < call.teams; team += step) sum += call.out[team * (N / 2 + 1) * N + at];
  return sum;
}

}  // namespace freqrob::plane
