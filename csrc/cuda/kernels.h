// The CUDA kernels by plain pointers: each call is queued on a stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "passes.h"
#include "plane_ops.h"

namespace freqrob::cuda {

// Fused: planes of `size` 32 or 64, with at most plane::max_rings(size) rings, that lie on a multiple of two pixels.

void launch(const plane::RingSum& call, int64_t size, cudaStream_t stream);
void launch(const plane::RingFilter& call, int64_t size, cudaStream_t stream);
void launch(const plane::RingDot& call, int64_t size, cudaStream_t stream);
void launch(const plane::Bass& call, int64_t size, cudaStream_t stream);

/// The number of teams for this number of planes.
int64_t amplitude_teams(int64_t planes, int64_t size);
void launch(const plane::AmplitudeSums& call, int64_t size, cudaStream_t stream);
/// out (N, N/2 + 1) from the teams' sums.
void launch_mean(const plane::AmplitudeSums& call, int64_t size, float* out, cudaStream_t stream);

// Passes: spectra of any size.

/// The number of parts per plane, so that all parts fill the GPU.
int64_t ring_parts(int64_t planes, int64_t coefficients);
void launch(const passes::RingSums& call, cudaStream_t stream);
/// out (planes, rings): scale · the sum of the parts.
void launch_sum(const passes::RingSums& call, float scale, float* out, cudaStream_t stream);
/// counts (rings + 1), how many coefficients of fft2 each ring has; they have been set to 0.
void launch_count(const RingView& map, int* counts, cudaStream_t stream);
void launch(const passes::BassGains& call, cudaStream_t stream);
void launch(const passes::RingGains& call, cudaStream_t stream);
void launch(const passes::Pixels& call, cudaStream_t stream);
void launch(const passes::MeanAmplitude& call, cudaStream_t stream);

}  // namespace freqrob::cuda
