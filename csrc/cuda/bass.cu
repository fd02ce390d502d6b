#include "fused.cuh"
#include "kernels.h"

namespace freqrob::cuda {

void launch(const plane::Bass& call, int64_t size, cudaStream_t stream) {
  launch_fused<8>(call, size, stream);
}

}  // namespace freqrob::cuda
