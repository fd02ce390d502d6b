// Python bindings of internals, for tests/spectral/test_kernels.py only; linked against the library under test.
#include <pybind11/complex.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <complex>
#include <cstdint>
#include <string>
#include <utility>

#include "../bass_gains.h"
#include "../cpu/kernels.h"

namespace py = pybind11;
using namespace freqrob;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

/// Transforms lines (lines, size), a line a lane.
template <class T, class Kernel>
Array<std::complex<T>> fft(Kernel kernel, int64_t lanes, const Array<std::complex<T>>& lines, bool inverse) {
  if (lines.ndim() != 2 || lines.shape(0) != lanes) throw py::value_error("lines: expected (lanes, size)");
  Array<std::complex<T>> out({lines.shape(0), lines.shape(1)});
  kernel(lines.shape(1), inverse, reinterpret_cast<const T*>(lines.data()), reinterpret_cast<T*>(out.mutable_data()));
  return out;
}

template <class T, class Kernel>
Array<T> transpose(Kernel kernel, const Array<T>& block) {
  Array<T> out({block.shape(0), block.shape(1)});
  kernel(block.data(), out.mutable_data());
  return out;
}

Array<float> natural_log(const std::string& isa, const Array<float>& values) {
  Array<float> out(values.size());
  const cpu::Kernels& kernels = cpu::kernels_for(isa.c_str());
  for (int64_t i = 0; i + kernels.lanes <= values.size(); i += kernels.lanes) {
    kernels.log_lanes(values.data() + i, out.mutable_data() + i);
  }
  return out;
}

RingView view(const Array<int32_t>& half, int64_t width, int64_t rings) {
  return {half.data(), half.shape(0), width, rings};
}

Array<int64_t> ring_counts(const Array<int32_t>& half, int64_t width, int64_t rings) {
  Array<int64_t> counts(rings);
  count_rings(view(half, width, rings), counts.mutable_data());
  return counts;
}

std::pair<Array<double>, double> gains(Array<double> profile, const Array<bool>& weighable, bool of_power) {
  Array<double> result(profile.size(), profile.data());
  const auto total = bass_gains<cpu::ScalarMath>(result.mutable_data(), 1, weighable.data(), result.size(), of_power);
  return {result, total.eligible};
}

}  // namespace

PYBIND11_MODULE(freqrob_internals, m) {
  m.def("lanes", [](const std::string& isa) { return cpu::kernels_for(isa.c_str()).lanes; });
  m.def("fft", [](const std::string& isa, const Array<std::complex<float>>& lines, bool inverse) {
    const cpu::Kernels& kernels = cpu::kernels_for(isa.c_str());
    return fft(kernels.fft_lanes, kernels.lanes, lines, inverse);
  });
  m.def("any_fft", [](const std::string& isa, const Array<std::complex<float>>& lines, bool inverse) {
    const cpu::Kernels& kernels = cpu::kernels_for(isa.c_str());
    return fft(kernels.any_fft_lanes, kernels.lanes, lines, inverse);
  });
  m.def("any_fft_double", [](const std::string& isa, const Array<std::complex<double>>& lines, bool inverse) {
    const cpu::Kernels& kernels = cpu::kernels_for(isa.c_str());
    return fft(kernels.any_fft_double_lanes, kernels.lanes / 2, lines, inverse);
  });
  m.def("transpose", [](const std::string& isa, const Array<float>& block) {
    return transpose(cpu::kernels_for(isa.c_str()).transpose_lanes, block);
  });
  m.def("transpose_double", [](const std::string& isa, const Array<double>& block) {
    return transpose(cpu::kernels_for(isa.c_str()).transpose_double_lanes, block);
  });
  m.def("log", &natural_log);
  m.def("multiplicity", [](int64_t kx, int64_t width) { return multiplicity(kx, width); });
  m.def("ring_counts", &ring_counts);
  m.def("is_valid",
        [](const Array<int32_t>& half, int64_t width, int64_t rings) { return is_valid(view(half, width, rings)); });
  m.def("bass_gains", &gains);
}
