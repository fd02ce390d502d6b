// Numbers for launches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace freqrob::cuda {

/// Of the current device.
inline int multiprocessors() {
  int device = 0, count = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

inline unsigned blocks(int64_t work, int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

}  // namespace freqrob::cuda
