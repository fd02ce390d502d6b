#include "fused.cuh"
#include "kernels.h"

namespace freqrob::cuda {

void launch(const plane::RingSum& call, int64_t size, cudaStream_t stream) {
  launch_fused<8>(call, size, stream);
}

void launch(const plane::RingFilter& call, int64_t size, cudaStream_t stream) {
  launch_fused<8>(call, size, stream);
}

void launch(const plane::RingDot& call, int64_t size, cudaStream_t stream) {
  launch_fused<4>(call, size, stream);
}

}  // namespace freqrob::cuda
