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

/// Binds a transform of lines (lines, size), one line per lane.
template <class T, class Kernel>
void define_fft(py::module_& m, const char* name, Kernel cpu::Kernels::* kernel) {
  using Lines = Array<std::complex<T>>;
  m.def(name, [kernel](const std::string& isa, const Lines& lines, bool inverse) {
    const cpu::Kernels& kernels = cpu::kernels_for(isa.c_str());
    const int64_t lanes = kernels.lanes * sizeof(float) / sizeof(T);
    if (lines.ndim() != 2 || lines.shape(0) != lanes) throw py::value_error("lines: expected (lanes, size)");
    Lines out({lines.shape(0), lines.shape(1)});
    const auto* in = reinterpret_cast<const T*>(lines.data());
    (kernels.*kernel)(lines.shape(1), inverse, in, reinterpret_cast<T*>(out.mutable_data()));
    return out;
  });
}

/// Binds the transposition of a block (lanes, lanes).
template <class T, class Kernel>
void define_transpose(py::module_& m, const char* name, Kernel cpu::Kernels::* kernel) {
  m.def(name, [kernel](const std::string& isa, const Array<T>& block) {
    Array<T> out({block.shape(0), block.shape(1)});
    (cpu::kernels_for(isa.c_str()).*kernel)(block.data(), out.mutable_data());
    return out;
  });
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
  define_fft<float>(m, "fft", &cpu::Kernels::fft_lanes);
  define_fft<float>(m, "any_fft", &cpu::Kernels::any_fft_lanes);
  define_fft<double>(m, "any_fft_double", &cpu::Kernels::any_fft_double_lanes);
  define_transpose<float>(m, "transpose", &cpu::Kernels::transpose_lanes);
  define_transpose<double>(m, "transpose_double", &cpu::Kernels::transpose_double_lanes);
  m.def("log", &natural_log);
  m.def("multiplicity", [](int64_t kx, int64_t width) { return multiplicity(kx, width); });
  m.def("ring_counts", &ring_counts);
  m.def("is_valid",
        [](const Array<int32_t>& half, int64_t width, int64_t rings) { return is_valid(view(half, width, rings)); });
  m.def("bass_norm", &bass_norm<double>);
  m.def("bass_gains", &gains);
}
