#include <torch/csrc/stable/library.h>

#include <string>

#include "cpu/kernels.h"

namespace {

std::string isa() {
  return freqrob::cpu::active_kernels().name;
}

}  // namespace

// `half` is RingMap.half: the ring of every coefficient of rfft2, int32, -1 for a coefficient on no ring. The sums
// leave such a coefficient out; ring_filter multiplies it by `outside`. ring_amplitude_backward is the gradient of
// ring_sum of amplitudes; it has no derivative.
STABLE_TORCH_LIBRARY(freqrob, m) {
  m.def("ring_sum(Tensor x, Tensor half, int rings, bool amplitude) -> Tensor");
  m.def("ring_filter(Tensor x, Tensor weights, Tensor half, float outside=1.0) -> Tensor");
  m.def("ring_amplitude_backward(Tensor grad, Tensor x, Tensor half) -> Tensor");
  m.def("ring_dot(Tensor x, Tensor y, Tensor half, int rings) -> Tensor");
  m.def("mean_amplitude(Tensor x) -> Tensor");
  m.def("bass(Tensor x, Tensor half, int rings, bool of_power, float pixel_scale) -> Tensor");
  m.def("bass_out(Tensor x, Tensor half, int rings, bool of_power, float pixel_scale, Tensor(a!) out) -> ()");
  m.def("isa() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(freqrob, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&isa));
}
