// The fused CUDA kernels' work on one square plane of 32 or 64 pixels, its spectrum and its rings, by a team of
// threads, in registers and shared memory. The code is written as what every thread does up to the next barrier, so a
// CPU can run it too, one thread after the other: this is how it is tested.
//
// A real plane of N × N has N/2 independent columns of complex numbers, and so a team transforms N/2 lines:
//   1. two neighbouring columns as one complex line, a + ib;
//   2. after their separation, the rows ky = 1 … N/2 - 1 of the spectrum, and as one line 0 the rows 0 and N/2, which
//      come from real numbers: P = F(0, ·) + i F(N/2, ·).
// No two images share a line, so a NaN in one image does not reach another.
#pragma once

#include <cstdint>

#include "../bass_gains.h"
#include "../fft.h"
#include "../pixels.h"
#include "../ring_geometry.h"
#include "float_math.h"

namespace freqrob::plane {

/// The most rings that a team has room for: a map by radius has no more.
constexpr int max_rings(int64_t size) {
  return static_cast<int>(3 * size / 4);
}

/// How N/2 lines of N numbers are distributed over threads: `Split` threads per line, one for throughput, more so that
/// few planes take little time. Thread t has a share of line t % kLines, kValues numbers in registers.
///
/// A transform has two steps, N = kOuter · 8. Pixel 8m + n belongs to the n-th first step, frequency k + kOuter·j to
/// the k-th second step, and a thread has kFirst first steps and kSecond second steps.
template <int Size, int Split>
struct Shape {
  static_assert(Size == 32 || Size == 64);
  static constexpr int N = Size;
  static constexpr int kSplit = Split;
  static constexpr int kLines = N / 2;
  static constexpr int kThreads = kLines * Split;
  static constexpr int kValues = N / Split;
  static constexpr int kOuter = N / 8;
  static constexpr int kFirst = 8 / Split;
  static constexpr int kSecond = kOuter / Split;
  static_assert(kFirst * Split == 8 && kSecond * Split == kOuter);
  static constexpr int kMaxRings = max_rings(N);
  static constexpr int kColumns = kThreads < 64 ? kThreads : 64;  // of partial sums over rings
  static constexpr int kPitch = kLines + 1;                       // odd: rows as well as columns meet every bank once

  static FREQROB_DEVICE int line(int t) { return t % kLines; }
  static FREQROB_DEVICE int share(int t) { return Split == 1 ? 0 : t / kLines; }

  /// The number of the i-th first and of the i-th second step of a thread.
  static FREQROB_DEVICE int first(int t, int i) { return kFirst * share(t) + i; }
  static FREQROB_DEVICE int second(int t, int i) { return kSecond * share(t) + i; }

  /// The index of register i before a forward and after an inverse transform, …
  static FREQROB_DEVICE int pixel(int t, int i) { return 8 * (i % kOuter) + first(t, i / kOuter); }
  /// … and after a forward and before an inverse one.
  static FREQROB_DEVICE int frequency(int t, int i) { return second(t, i / 8) + kOuter * (i % 8); }

  /// Between the steps: the place, of N, of what register i gives to or gets from a first and a second step.
  static FREQROB_DEVICE int place_in_first(int t, int i) { return pixel(t, i); }
  static FREQROB_DEVICE int place_in_second(int t, int i) { return 8 * second(t, i / 8) + i % 8; }
};

template <class Shape>
struct Line {
  Complex<float> values[Shape::kValues];
};

/// The rings of half a spectrum, rows 0 … N/2 with all columns, and their sizes.
template <int N>
struct Rings {
  static constexpr int kPitch = N + 4;  // bytes: as words, odd
  uint8_t of[(N / 2 + 1) * kPitch];     // `count` of a coefficient on no ring
  int multiplicity[max_rings(N) + 1];
  int count;

  FREQROB_DEVICE int at(int ky, int kx) const { return of[ky * kPitch + kx]; }
};

/// The shared memory of a team: a spectrum while it is regrouped, or sums over rings, never both at once.
template <class Shape>
struct Shared {
  union {
    Complex<float> lines[Shape::N * Shape::kPitch];
    struct {
      float sums[(Shape::kMaxRings + 1) * (Shape::kColumns + 1)];
      float profile[Shape::kMaxRings + 1];
      BassTotals<float> shares[Shape::kMaxRings + 1];
      float gains[Shape::kMaxRings + 1];
      Complex<float> packed[Shape::N];  // line 0
    };
  };
};

/// Reads a map in the layout of rfft2, `half` (N, N/2 + 1); an entry that is not a ring of it counts as none.
template <int N, class Team>
FREQROB_DEVICE void load_rings(Team team, const int32_t* half, int count, Rings<N>& rings) {
  team.each([&](int t) {
    for (int ring = t; ring <= count; ring += Team::kThreads) rings.multiplicity[ring] = 0;
    if (t == 0) rings.count = count;
  });
  team.each([&](int t) {
    constexpr int kColumns = N / 2 + 1;
    for (int k = t; k < kColumns * N; k += Team::kThreads) {
      const int ky = k / N, kx = k % N;
      const int32_t found = kx < kColumns ? half[ky * kColumns + kx] : half[(N - ky) % N * kColumns + N - kx];
      const int ring = static_cast<uint32_t>(found) < static_cast<uint32_t>(count) ? found : count;
      rings.of[ky * Rings<N>::kPitch + kx] = static_cast<uint8_t>(ring);
      team.add(rings.multiplicity[ring], ky == 0 || 2 * ky == N ? 1 : 2);
    }
  });
}

/// Multiplies the i-th of `Count` values by exp(Sign · 2πi · i·step / N).
template <class Shape, int Sign, int Count>
FREQROB_DEVICE void twist(Complex<float>* z, int step) {
  if constexpr (Shape::kSplit == 1) {  // the factors are constants
    FREQROB_UNROLL
    for (int i = 1; i < Count; ++i) z[i] = twiddle<Shape::N, Sign>(z[i], i * step);
  } else {
    const Complex<float> turn = FloatMath::unit(Sign * static_cast<float>(step) / Shape::N);
    Complex<float> turned = turn;
    FREQROB_UNROLL
    for (int i = 1; i < Count; ++i) {
      z[i] = z[i] * turned;
      turned = turned * turn;
    }
  }
}

/// Sends register i of each thread to place from(t, i) of its line, and fills it from place to(t, i).
template <class Shape, class Team, class Lines, class From, class To>
FREQROB_DEVICE void regroup(Team team, Lines& lines, Shared<Shape>& shared, From from, To to) {
  if constexpr (Shape::kSplit == 1) {
    team.each([&](int t) {
      Line<Shape> line;
      FREQROB_UNROLL
      for (int i = 0; i < Shape::kValues; ++i) line.values[from(0, i)] = lines[t].values[i];
      FREQROB_UNROLL
      for (int i = 0; i < Shape::kValues; ++i) lines[t].values[i] = line.values[to(0, i)];
    });
  } else {
    team.each([&](int t) {
      FREQROB_UNROLL
      for (int i = 0; i < Shape::kValues; ++i) {
        shared.lines[from(t, i) * Shape::kPitch + Shape::line(t)] = lines[t].values[i];
      }
    });
    team.each([&](int t) {
      FREQROB_UNROLL
      for (int i = 0; i < Shape::kValues; ++i) {
        lines[t].values[i] = shared.lines[to(t, i) * Shape::kPitch + Shape::line(t)];
      }
    });
  }
}

template <class Shape, class Team, class Lines>
FREQROB_DEVICE void transform(Team team, Lines& lines, Shared<Shape>& shared) {
  team.each([&](int t) {
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kFirst; ++i) {
      Complex<float>* z = lines[t].values + i * Shape::kOuter;
      radix<Shape::kOuter, -1>(z);
      twist<Shape, -1, Shape::kOuter>(z, Shape::first(t, i));
    }
  });
  regroup<Shape>(team, lines, shared, Shape::place_in_first, Shape::place_in_second);
  team.each([&](int t) {
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kSecond; ++i) radix8<-1>(lines[t].values + 8 * i);
  });
}

template <class Shape, class Team, class Lines>
FREQROB_DEVICE void inverse_transform(Team team, Lines& lines, Shared<Shape>& shared) {
  team.each([&](int t) {
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kSecond; ++i) {
      Complex<float>* z = lines[t].values + 8 * i;
      radix8<1>(z);
      twist<Shape, 1, 8>(z, Shape::second(t, i));
    }
  });
  regroup<Shape>(team, lines, shared, Shape::place_in_second, Shape::place_in_first);
  team.each([&](int t) {
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kFirst; ++i) radix<Shape::kOuter, 1>(lines[t].values + i * Shape::kOuter);
  });
}

/// Reads a plane's columns, two neighbours to a line.
template <class Shape, class Pixel, class Team, class Lines>
FREQROB_DEVICE void load_plane(Team team, const Pixel* x, Lines& lines) {
  team.each([&](int t) {
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) {
      const int at = Shape::pixel(t, i) * Shape::N + 2 * Shape::line(t);
      const auto two = *reinterpret_cast<const Neighbours<Pixel>*>(x + at);
      lines[t].values[i] = {to_float(two.left), to_float(two.right)};
    }
  });
}

/// Writes the pixels neighbours(at, values) at each offset `at`.
template <class Shape, class Pixel, class Team, class Lines, class Make>
FREQROB_DEVICE void store_plane(Team team, const Lines& lines, Pixel* out, Make neighbours) {
  team.each([&](int t) {
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) {
      const int at = Shape::pixel(t, i) * Shape::N + 2 * Shape::line(t);
      *reinterpret_cast<Neighbours<Pixel>*>(out + at) = neighbours(at, lines[t].values[i]);
    }
  });
}

/// From a plane to its spectrum: line ky ≥ 1 holds 2F(ky, ·), line 0 holds F(0, ·) + i F(N/2, ·).
template <class Shape, class Team, class Lines>
FREQROB_DEVICE void to_spectrum(Team team, Lines& lines, Shared<Shape>& shared) {
  constexpr int N = Shape::N;
  transform<Shape>(team, lines, shared);
  team.each([&](int t) {
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) {
      shared.lines[Shape::frequency(t, i) * Shape::kPitch + Shape::line(t)] = lines[t].values[i];
    }
  });
  team.each([&](int t) {
    const int ky = Shape::line(t), mirror = ky == 0 ? N / 2 : N - ky;
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) {
      const int column = Shape::pixel(t, i);
      const Complex<float> z = shared.lines[ky * Shape::kPitch + column / 2];
      const Complex<float> opposite = shared.lines[mirror * Shape::kPitch + column / 2];
      const auto twice = separate(z, opposite);
      const Complex<float> left = ky == 0 ? Complex<float>{z.re, opposite.re} : twice.a;
      const Complex<float> right = ky == 0 ? Complex<float>{z.im, opposite.im} : twice.b;
      lines[t].values[i] = column % 2 == 0 ? left : right;
    }
  });
  transform<Shape>(team, lines, shared);
}

/// Back to the plane, from 1/(2N²) of what to_spectrum gives in lines ky ≥ 1 and 1/N² of it in line 0.
template <class Shape, class Team, class Lines>
FREQROB_DEVICE void to_plane(Team team, Lines& lines, Shared<Shape>& shared) {
  constexpr int N = Shape::N;
  inverse_transform<Shape>(team, lines, shared);
  team.each([&](int t) {
    const int ky = Shape::line(t);
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) shared.lines[Shape::pixel(t, i) * Shape::kPitch + ky] = lines[t].values[i];
  });
  team.each([&](int t) {
    const int left = 2 * Shape::line(t);
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) {
      const int ky = Shape::frequency(t, i), line = ky <= N / 2 ? ky % (N / 2) : N - ky;
      const Complex<float> a = shared.lines[left * Shape::kPitch + line];
      const Complex<float> b = shared.lines[(left + 1) * Shape::kPitch + line];
      if (ky == 0) {
        lines[t].values[i] = {a.re, b.re};
      } else if (ky == N / 2) {
        lines[t].values[i] = {a.im, b.im};
      } else if (ky < N / 2) {
        lines[t].values[i] = a + quarter_turn<1>(b);
      } else {
        lines[t].values[i] = Complex<float>{a.re, -a.im} + Complex<float>{b.im, b.re};
      }
    }
  });
  inverse_transform<Shape>(team, lines, shared);
}

/// Puts line 0 where every thread can read it.
template <class Shape, class Team, class Lines>
FREQROB_DEVICE void share_line_0(Team team, const Lines& lines, Shared<Shape>& shared) {
  team.each([&](int t) {
    if (Shape::line(t) != 0) return;
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) shared.packed[Shape::frequency(t, i)] = lines[t].values[i];
  });
}

/// Calls visit(kx, packed(kx), packed(-kx)) on a share of line 0's half.
template <class Shape, class Visit>
FREQROB_DEVICE void visit_line_0(int t, Visit visit) {
  for (int kx = t; kx <= Shape::N / 2; kx += Shape::kThreads) visit(kx, (Shape::N - kx) % Shape::N);
}

/// Sums over each ring, into shared.profile. `value(t, i)` is what coefficient i of a thread's line ky ≥ 1 adds, its
/// mirror included, `values(kx, -kx)` what those of rows 0 and N/2 add, without. Line 0 has been shared.
template <class Shape, class Team, class Value, class Values>
FREQROB_DEVICE void sum_rings(Team team, const Rings<Shape::N>& rings, Shared<Shape>& shared, Value value,
                              Values values) {
  constexpr int N = Shape::N, kColumns = Shape::kColumns, kPitch = kColumns + 1;
  team.each([&](int t) {
    for (int k = t; k < (rings.count + 1) * kPitch; k += Shape::kThreads) shared.sums[k] = 0;
  });
  // At any time one thread owns a column: no atomics, and always the same sum.
  FREQROB_UNROLL
  for (int first = 0; first < Shape::kThreads; first += kColumns) {
    team.each([&](int t) {
      const int column = t - first, ky = Shape::line(t);
      if (column < 0 || column >= kColumns || ky == 0) return;
      FREQROB_UNROLL
      for (int i = 0; i < Shape::kValues; ++i) {
        shared.sums[rings.at(ky, Shape::frequency(t, i)) * kPitch + column] += value(t, i);
      }
    });
  }
  team.each([&](int t) {
    visit_line_0<Shape>(t, [&](int kx, int mirror) {
      const Complex<float> of = values(kx, mirror);
      const float times = multiplicity(kx, N);
      shared.sums[rings.at(0, kx) * kPitch + t] += times * of.re;
      shared.sums[rings.at(N / 2, kx) * kPitch + t] += times * of.im;
    });
  });
  team.each([&](int t) {
    for (int ring = t; ring <= rings.count; ring += Shape::kThreads) {
      float sum = 0;
      FREQROB_UNROLL
      for (int column = 0; column < kColumns; ++column) sum += shared.sums[ring * kPitch + column];
      shared.profile[ring] = sum;
    }
  });
}

/// Sums of |F|² or |F| over each ring.
template <class Shape, class Team, class Lines>
FREQROB_DEVICE void sum_spectrum(Team team, const Rings<Shape::N>& rings, const Lines& lines, Shared<Shape>& shared,
                                 bool of_amplitude) {
  share_line_0<Shape>(team, lines, shared);
  if (of_amplitude) {
    sum_rings<Shape>(
        team, rings, shared, [&](int t, int i) { return amplitude(lines[t].values[i]); },
        [&](int kx, int mirror) {
          const auto twice = separate(shared.packed[kx], shared.packed[mirror]);
          return Complex<float>{0.5f * amplitude(twice.a), 0.5f * amplitude(twice.b)};
        });
  } else {
    sum_rings<Shape>(
        team, rings, shared, [&](int t, int i) { return 0.5f * power(lines[t].values[i]); },
        [&](int kx, int mirror) {
          const auto twice = separate(shared.packed[kx], shared.packed[mirror]);
          return Complex<float>{0.25f * power(twice.a), 0.25f * power(twice.b)};
        });
  }
}

/// Multiplies each coefficient by shared.gains of its ring, and brings it to the scale that to_plane expects. Line 0
/// has been shared.
template <class Shape, class Team, class Lines>
FREQROB_DEVICE void weigh_rings(Team team, const Rings<Shape::N>& rings, Lines& lines, Shared<Shape>& shared) {
  constexpr int N = Shape::N;
  constexpr float kScale = 0.5f / (N * N);
  team.each([&](int t) {
    const int ky = Shape::line(t);
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) {
      const float gain = kScale * shared.gains[rings.at(ky, Shape::frequency(t, i))];
      lines[t].values[i] = lines[t].values[i] * gain;
    }
    visit_line_0<Shape>(t, [&](int kx, int mirror) {
      const float a = kScale * shared.gains[rings.at(0, kx)], b = kScale * shared.gains[rings.at(N / 2, kx)];
      Complex<float> z = shared.packed[kx], opposite = shared.packed[mirror];
      weigh(z, opposite, a + b, a - b);
      shared.packed[kx] = z;
      if (mirror != kx) shared.packed[mirror] = opposite;
    });
  });
  team.each([&](int t) {
    if (Shape::line(t) != 0) return;
    FREQROB_UNROLL
    for (int i = 0; i < Shape::kValues; ++i) lines[t].values[i] = shared.packed[Shape::frequency(t, i)];
  });
}

}  // namespace freqrob::plane
