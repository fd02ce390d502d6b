// The threads that work on one plane.
#pragma once

#include "../host_device.h"

namespace freqrob::cuda {

/// Up to 32 threads are lanes of one warp, which waits for the lanes of `mask`; more are the whole block.
template <int Threads>
struct Team {
  static constexpr int kThreads = Threads;
  unsigned mask;

  /// A thread's registers.
  template <class T>
  struct Each {
    T own;
    FREQROB_DEVICE T& operator[](int) { return own; }
    FREQROB_DEVICE const T& operator[](int) const { return own; }
  };

  /// Runs the task as every thread, then waits for all of them.
  template <class Task>
  FREQROB_DEVICE void each(Task task) {
    task(static_cast<int>(threadIdx.x % Threads));
    if constexpr (Threads > 32) {
      __syncthreads();
    } else {
      __syncwarp(mask);
    }
  }

  FREQROB_DEVICE void add(int& to, int value) { atomicAdd(&to, value); }
};

}  // namespace freqrob::cuda
