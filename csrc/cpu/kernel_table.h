// The table of one instruction set's kernels. Included once by each instruction set's file after its target pragma.
#pragma once

#include "fused.h"
#include "one_by_one.h"

namespace freqrob::cpu::FREQROB_ISA {
namespace {

template <int N>
constexpr Fused kFused = {
    .planes_per_group = kLanes,
    .planes_per_map = kGroupsPerMap * kLanes,
    .scratch_bytes = Workspace<N>::bytes,
    .ring_sum = ring_sum<N>,
    .ring_filter = ring_filter<N>,
    .ring_dot = ring_dot<N>,
    .amplitude_map = amplitude_map<N>,
    .bass_float = bass<N, float>,
    .bass_uint8 = bass<N, uint8_t>,
};

template <int N>
constexpr Fused kOneByOne = {
    .planes_per_group = 1,
    .planes_per_map = one_by_one::kPlanesPerMap,
    .scratch_bytes = one_by_one::Workspace<N>::bytes,
    .ring_sum = one_by_one::ring_sum<N>,
    .ring_filter = one_by_one::ring_filter<N>,
    .ring_dot = one_by_one::ring_dot<N>,
    .amplitude_map = one_by_one::amplitude_map<N>,
    .bass_float = one_by_one::bass<N, float>,
    .bass_uint8 = one_by_one::bass<N, uint8_t>,
};

const Fused* fused(int64_t height, int64_t width) {
  if (height != width) return nullptr;
  switch (width) {
    case 32:
      return &kFused<32>;
    case 64:
      return &kFused<64>;
    case 224:
      return &kOneByOne<224>;
    default:
      return nullptr;
  }
}

template <int N>
void fft_lines(bool inverse, Spectrum* line) {
  inverse ? fft_line<N, 1>(line) : fft_line<N, -1>(line);
}

template <int N>
void long_fft_lines(bool inverse, Spectrum* line) {
  Spectrum other[N];
  if (inverse) {
    for (int k = 0; k < N; ++k) other[position<N>(k)] = line[k];
    transform_back<N>(other, [=](int n, Spectrum value) { line[n] = value; });
  } else {
    transform<N>(other, [=](int n) { return line[n]; });
    for (int k = 0; k < N; ++k) line[k] = other[position<N>(k)];
  }
}

void fft_lanes(int64_t size, bool inverse, const float* in, float* out) {
  Spectrum line[224];
  for (int64_t n = 0; n < size; ++n) {
    for (int l = 0; l < kLanes; ++l) {
      line[n].re[l] = in[2 * (l * size + n)];
      line[n].im[l] = in[2 * (l * size + n) + 1];
    }
  }
  if (size == 32) fft_lines<32>(inverse, line);
  if (size == 64) fft_lines<64>(inverse, line);
  if (size == 224) long_fft_lines<224>(inverse, line);
  for (int64_t n = 0; n < size; ++n) {
    for (int l = 0; l < kLanes; ++l) {
      out[2 * (l * size + n)] = line[n].re[l];
      out[2 * (l * size + n) + 1] = line[n].im[l];
    }
  }
}

void transpose_lanes(const float* in, float* out) {
  Lanes rows[kLanes];
  for (int l = 0; l < kLanes; ++l) rows[l] = load(in + l * kLanes);
  transpose(rows);
  for (int l = 0; l < kLanes; ++l) store(out + l * kLanes, rows[l]);
}

void log_lanes(const float* in, float* out) {
  store(out, log(load(in)));
}

}  // namespace
}  // namespace freqrob::cpu::FREQROB_ISA

#define FREQROB_JOIN_(a, b) a##b
#define FREQROB_JOIN(a, b) FREQROB_JOIN_(a, b)
#define FREQROB_STRING_(a) #a
#define FREQROB_STRING(a) FREQROB_STRING_(a)

namespace freqrob::cpu {

const Kernels& FREQROB_JOIN(FREQROB_ISA, _kernels)() {
  using namespace FREQROB_ISA;
  static constexpr Kernels kernels = {
      .name = FREQROB_STRING(FREQROB_ISA),
      .lanes = kLanes,
      .fused = fused,
      .fft_lanes = fft_lanes,
      .transpose_lanes = transpose_lanes,
      .log_lanes = log_lanes,
  };
  return kernels;
}

}  // namespace freqrob::cpu
