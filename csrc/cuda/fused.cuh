// Launches of the fused ops: one kernel, which reads a plane once, and writes its result once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "launch.h"
#include "plane_ops.h"
#include "team.cuh"

namespace freqrob::cuda {

using plane::Rings;
using plane::Shape;
using plane::Workspace;

constexpr unsigned kAllLanes = 0xffffffff;

/// Blocks that a multiprocessor should have room for; for blocks of 256 threads the compiler's choice is so high that
/// registers spill on Blackwell.
template <class Shape>
constexpr int kLeastBlocks = Shape::kThreads == 256 ? 2 : 0;

/// A block's teams; their work spaces have to fit 48 KB of shared memory.
template <class Shape, int Teams, class Call>
__global__ void __launch_bounds__(Shape::kThreads* Teams, kLeastBlocks<Shape>) fused(const Call call) {
  constexpr int kBlock = Shape::kThreads * Teams;
  __shared__ Rings<Shape::N> rings;
  __shared__ Workspace<Shape, Call> work[Teams];
  plane::load_rings<Shape::N>(Team<kBlock>{kAllLanes}, call.half, call.rings, rings);
  const int team = threadIdx.x / Shape::kThreads;
  const int64_t plane = static_cast<int64_t>(blockIdx.x) * Teams + team;
  const unsigned mask = __ballot_sync(kAllLanes, plane < call.planes);
  if (plane < call.planes) plane::run<Shape>(Team<Shape::kThreads>{mask}, call, plane, rings, work[team]);
}

/// Each team adds up several planes.
template <class Shape, int Teams>
__global__ void __launch_bounds__(Shape::kThreads* Teams) fused_sums(const plane::AmplitudeSums call) {
  __shared__ Workspace<Shape, plane::AmplitudeSums> work[Teams];
  const int team = threadIdx.x / Shape::kThreads;
  const int64_t number = static_cast<int64_t>(blockIdx.x) * Teams + team;
  const unsigned mask = __match_any_sync(kAllLanes, team);
  if (number < call.teams) plane::run<Shape>(Team<Shape::kThreads>{mask}, call, number, work[team]);
}

/// Whether several threads share a line, because one thread per line would not fill the GPU with so few planes.
inline bool is_few(int64_t planes, int64_t size) {
  return planes <= multiprocessors() * (size == 32 ? 8 : 4);
}

/// Calls task(Shape, teams of a block) for that many planes of that size; `Teams` of 32 × 32 where they are many.
template <int Teams, class Task>
void with_shape(int64_t planes, int64_t size, Task task) {
  using One = std::integral_constant<int, 1>;
  if (size == 32) {
    is_few(planes, size) ? task(Shape<32, 4>{}, One{}) : task(Shape<32, 1>{}, std::integral_constant<int, Teams>{});
  } else {
    is_few(planes, size) ? task(Shape<64, 8>{}, One{}) : task(Shape<64, 2>{}, One{});
  }
}

template <int Teams, class Call>
void launch_fused(const Call& call, int64_t size, cudaStream_t stream) {
  with_shape<Teams>(call.planes, size, [&]<class S, class T>(S, T) {
    fused<S, T::value><<<blocks(call.planes, T::value), S::kThreads * T::value, 0, stream>>>(call);
  });
}

}  // namespace freqrob::cuda
