#include <algorithm>

#include "kernels.h"
#include "launch.h"
#include "team.cuh"

namespace freqrob::cuda {
namespace {

using passes::BassGains;
using passes::MeanAmplitude;
using passes::Pixels;
using passes::RingGains;
using passes::RingSums;

constexpr int kThreads = 256;
constexpr int kPart = 2048;  // coefficients, at least, of a part of a plane

__global__ void __launch_bounds__(passes::kThreads) ring_sums(const RingSums call) {
  __shared__ passes::Sums sums;
  passes::run(Team<passes::kThreads>{}, call, blockIdx.x / call.parts, blockIdx.x % call.parts, sums);
}

__global__ void sum_parts(const RingSums call, float scale, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, rings = call.map.rings;
  if (i < call.planes * rings) out[i] = scale * passes::sum_parts(call, i / rings, i % rings);
}

__global__ void count(const RingView map, int* counts) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, columns = map.columns();
  if (k < map.height * columns) atomicAdd(counts + passes::ring_at(map, k), multiplicity(k % columns, map.width));
}

__global__ void __launch_bounds__(passes::kThreads) bass_gains(const BassGains call) {
  passes::run(Team<passes::kThreads>{}, call, blockIdx.x);
}

/// The part of a plane that a block works on.
struct Place {
  int64_t plane, k;

  FREQROB_DEVICE explicit Place(int64_t size) {
    const unsigned per_plane = (size + kThreads - 1) / kThreads;
    plane = blockIdx.x / per_plane;
    k = static_cast<int64_t>(blockIdx.x % per_plane) * kThreads + threadIdx.x;
  }
};

__global__ void weigh(const RingGains call) {
  const int64_t coefficients = call.map.height * call.map.columns();
  const Place place(coefficients);
  if (place.k < coefficients) passes::weigh(call, place.plane, place.k);
}

__global__ void store(const Pixels call) {
  const Place place(call.pixels);
  if (place.k < call.pixels) passes::store(call, place.plane, place.k);
}

__global__ void mean(const MeanAmplitude call) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k < call.coefficients) passes::mean(call, k);
}

}  // namespace

int64_t ring_parts(int64_t planes, int64_t coefficients) {
  const int64_t to_fill = 4 * multiprocessors() / planes, most = coefficients / kPart;
  return std::max<int64_t>(1, std::min(to_fill, most));
}

void launch(const RingSums& call, cudaStream_t stream) {
  ring_sums<<<blocks(call.planes * call.parts, 1), passes::kThreads, 0, stream>>>(call);
}

void launch_sum(const RingSums& call, float scale, float* out, cudaStream_t stream) {
  sum_parts<<<blocks(call.planes * call.map.rings, kThreads), kThreads, 0, stream>>>(call, scale, out);
}

void launch_count(const RingView& map, int* counts, cudaStream_t stream) {
  count<<<blocks(map.height * map.columns(), kThreads), kThreads, 0, stream>>>(map, counts);
}

void launch(const BassGains& call, cudaStream_t stream) {
  bass_gains<<<blocks(call.sums.planes, 1), passes::kThreads, 0, stream>>>(call);
}

void launch(const RingGains& call, cudaStream_t stream) {
  const int64_t coefficients = call.map.height * call.map.columns();
  weigh<<<call.planes * blocks(coefficients, kThreads), kThreads, 0, stream>>>(call);
}

void launch(const Pixels& call, cudaStream_t stream) {
  store<<<call.planes * blocks(call.pixels, kThreads), kThreads, 0, stream>>>(call);
}

void launch(const MeanAmplitude& call, cudaStream_t stream) {
  mean<<<blocks(call.coefficients, kThreads), kThreads, 0, stream>>>(call);
}

}  // namespace freqrob::cuda
