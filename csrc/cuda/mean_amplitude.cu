#include <algorithm>

#include "fused.cuh"
#include "kernels.h"

namespace freqrob::cuda {
namespace {

constexpr int kTeams = 4;                      // of a block
constexpr int kCoefficients = 32, kRows = 16;  // of a block that adds up the teams

/// Threads (x, y) take coefficient x and every kRows-th team from y on.
__global__ void mean_of_sums(const plane::AmplitudeSums call, int size, float* out) {
  __shared__ double sums[kRows][kCoefficients];
  const int k = blockIdx.x * kCoefficients + threadIdx.x;
  const bool is_any = k < size * (size / 2 + 1);
  if (is_any) sums[threadIdx.y][threadIdx.x] = plane::sum_amplitudes(call, size, k, threadIdx.y, kRows);
  __syncthreads();
  if (!is_any || threadIdx.y != 0) return;
  double sum = 0;
  for (int row = 0; row < kRows; ++row) sum += sums[row][threadIdx.x];
  out[k] = static_cast<float>(sum / call.planes);
}

}  // namespace

int64_t amplitude_teams(int64_t planes, int64_t size) {
  const int64_t most = static_cast<int64_t>(multiprocessors()) * (size == 32 ? 2 * kTeams : 4);
  return std::min(planes, most);
}

void launch(const plane::AmplitudeSums& call, int64_t size, cudaStream_t stream) {
  with_shape<kTeams>(call.planes, size, [&]<class S, class T>(S, T) {
    fused_sums<S, T::value><<<blocks(call.teams, T::value), S::kThreads * T::value, 0, stream>>>(call);
  });
}

void launch_mean(const plane::AmplitudeSums& call, int64_t size, float* out, cudaStream_t stream) {
  const dim3 threads(kCoefficients, kRows);
  mean_of_sums<<<blocks(size * (size / 2 + 1), kCoefficients), threads, 0, stream>>>(call, static_cast<int>(size), out);
}

}  // namespace freqrob::cuda
