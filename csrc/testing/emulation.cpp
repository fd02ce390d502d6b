// The fused CUDA kernels run by the CPU, thread after thread, and bound for tests/spectral/test_cuda_emulation.py.
#include <pybind11/complex.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <complex>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "../cuda/passes.h"
#include "../cuda/plane_ops.h"
#include "serial_team.h"

namespace py = pybind11;
using namespace freqrob;
using namespace freqrob::plane;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

struct Options {
  bool split, backwards;
};

constexpr int kBlock = 128;

/// Calls task(Shape, rings, shared memory) for a size and a split.
template <class Task>
void with_shape(int64_t size, bool split, Task task) {
  if (size == 32) {
    split ? task(Shape<32, 4>{}) : task(Shape<32, 1>{});
  } else if (size == 64) {
    split ? task(Shape<64, 8>{}) : task(Shape<64, 2>{});
  } else {
    throw py::value_error("x: expected planes of 32 or 64 pixels");
  }
}

/// Runs a call on every plane, as a kernel's launch does.
template <class Call>
void launch(const Call& call, int64_t size, Options options) {
  with_shape(size, options.split, [&]<class S>(S) {
    const auto rings = std::make_unique<Rings<S::N>>();
    load_rings<S::N>(testing::SerialTeam<kBlock>{options.backwards}, call.half, call.rings, *rings);
    const auto work = std::make_unique<Workspace<S, Call>>();
    for (int64_t plane = 0; plane < call.planes; ++plane) {
      run<S>(testing::SerialTeam<S::kThreads>{options.backwards}, call, plane, *rings, *work);
    }
  });
}

template <class T>
int64_t planes_of(const Array<T>& x) {
  if (x.ndim() != 3 || x.shape(1) != x.shape(2)) throw py::value_error("x: expected (planes, N, N)");
  return x.shape(0);
}

Array<float> ring_sum(const Array<float>& x, const Array<int32_t>& half, int rings, bool of_amplitude,
                      Options options) {
  Array<float> out({planes_of(x), py::ssize_t(rings)});
  launch(RingSum{half.data(), rings, x.data(), out.mutable_data(), planes_of(x), of_amplitude}, x.shape(1), options);
  return out;
}

Array<float> ring_filter(const Array<float>& x, const Array<float>& weights, const Array<int32_t>& half, float outside,
                         Options options) {
  Array<float> out({x.shape(0), x.shape(1), x.shape(2)});
  const RingFilter call = {
      half.data(), static_cast<int>(weights.shape(1)), x.data(), weights.data(), out.mutable_data(), planes_of(x),
      outside};
  launch(call, x.shape(1), options);
  return out;
}

Array<float> ring_dot(const Array<float>& x, const Array<float>& y, const Array<int32_t>& half, int rings,
                      Options options) {
  Array<float> out({planes_of(x), py::ssize_t(rings)});
  launch(RingDot{half.data(), rings, x.data(), y.data(), out.mutable_data(), planes_of(x)}, x.shape(1), options);
  return out;
}

Array<float> mean_amplitude_of(const Array<float>& x, int64_t teams, Options options) {
  const int64_t planes = planes_of(x), size = x.shape(1);
  std::vector<float> sums(teams * (size / 2 + 1) * size);
  const AmplitudeSums call = {x.data(), sums.data(), planes, teams};
  with_shape(size, options.split, [&]<class S>(S) {
    const auto work = std::make_unique<Workspace<S, AmplitudeSums>>();
    for (int64_t team = 0; team < teams; ++team) {
      run<S>(testing::SerialTeam<S::kThreads>{options.backwards}, call, team, *work);
    }
  });
  Array<float> out({size, size / 2 + 1});
  for (int k = 0; k < out.size(); ++k) out.mutable_data()[k] = sum_amplitudes(call, size, k, 0, 1) / planes;
  return out;
}

/// `pixels` are float32, the bits of bfloat16 as uint16, or uint8.
py::array bass(const py::array& x, const Array<int32_t>& half, int rings, bool of_power, float pixel_scale,
               Options options) {
  const auto of_type = [&]<class Storage>(Storage, PixelType type, float white) -> py::array {
    const auto in = Array<Storage>::ensure(x);
    Array<Storage> out({in.shape(0), in.shape(1), in.shape(2)});
    const Bass call = {.half = half.data(),
                       .rings = rings,
                       .x = in.data(),
                       .out = out.mutable_data(),
                       .planes = planes_of(in),
                       .pixels = type,
                       .unit = pixel_scale / white,
                       .white = white,
                       .of_power = of_power};
    launch(call, in.shape(1), options);
    return out;
  };
  if (py::isinstance<Array<float>>(x)) return of_type(float{}, PixelType::kFloat32, 1);
  if (py::isinstance<Array<uint16_t>>(x)) return of_type(uint16_t{}, PixelType::kBFloat16, 1);
  if (py::isinstance<Array<uint8_t>>(x)) return of_type(uint8_t{}, PixelType::kUInt8, 255);
  throw py::type_error("x: expected float32, uint16 (the bits of bfloat16) or uint8");
}

using PassTeam = testing::SerialTeam<passes::kThreads>;
using Spectra = Array<std::complex<float>>;

const Complex<float>* numbers(const Spectra& x) {
  return reinterpret_cast<const Complex<float>*>(x.data());
}

/// Sums over the rings of half spectra (planes, H, W//2 + 1), in parts: (planes, parts, rings + 1).
std::vector<float> sums_of_parts(passes::RingSums& call, bool backwards) {
  std::vector<float> sums(call.planes * call.parts * (call.map.rings + 1));
  call.out = sums.data();
  const auto work = std::make_unique<passes::Sums>();
  for (int64_t plane = 0; plane < call.planes; ++plane) {
    for (int64_t part = 0; part < call.parts; ++part) passes::run(PassTeam{backwards}, call, plane, part, *work);
  }
  return sums;
}

Array<float> ring_pass(const Spectra& x, const Spectra& y, const Array<int32_t>& half, int64_t width, int64_t rings,
                       int64_t parts, int summand, bool backwards) {
  const RingView map = {half.data(), x.shape(1), width, rings};
  passes::RingSums call = {map, numbers(x), numbers(y), nullptr, x.shape(0), parts, passes::Summand(summand)};
  const std::vector<float> sums = sums_of_parts(call, backwards);
  Array<float> out({x.shape(0), py::ssize_t(rings)});
  for (int64_t i = 0; i < out.size(); ++i) out.mutable_data()[i] = passes::sum_parts(call, i / rings, i % rings);
  return out;
}

/// The spectra as BaSS weighs them, and which planes change.
std::pair<Spectra, Array<bool>> bass_pass(const Spectra& x, const Array<int32_t>& half, int64_t width, int64_t rings,
                                          bool of_power, float pixel_scale, bool backwards) {
  const int64_t planes = x.shape(0), row = rings + 1;
  Spectra out({x.shape(0), x.shape(1), x.shape(2)}, x.data());
  Array<bool> changes(planes);
  const RingView map = {half.data(), x.shape(1), width, rings};
  const auto summand = of_power ? passes::Summand::kProduct : passes::Summand::kAmplitude;
  passes::RingSums call = {map, numbers(x), numbers(x), nullptr, planes, 3, summand};
  const std::vector<float> sums = sums_of_parts(call, backwards);

  std::vector<int> counts(row);
  for (int64_t k = 0; k < x.shape(1) * x.shape(2); ++k) {
    counts[passes::ring_at(map, k)] += multiplicity(k % x.shape(2), width);
  }
  std::vector<BassTotals<float>> shares(planes * row);
  std::vector<float> profile(planes * row), gains(planes * row);
  const passes::BassGains of = {call,         counts.data(),          shares.data(), profile.data(),
                                gains.data(), changes.mutable_data(), pixel_scale,   of_power};
  for (int64_t plane = 0; plane < planes; ++plane) passes::run(PassTeam{backwards}, of, plane);
  const passes::RingGains weighing = {
      map, gains.data(), row, 1, reinterpret_cast<Complex<float>*>(out.mutable_data()), planes};
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (int64_t k = 0; k < x.shape(1) * x.shape(2); ++k) passes::weigh(weighing, plane, k);
  }
  return {out, changes};
}

/// Each thread takes what its neighbour holds, with no barrier between reading and writing.
int race(bool backwards) {
  int held[4] = {1, 2, 3, 4};
  testing::SerialTeam<4>{backwards}.each([&](int t) { held[t] = held[(t + 1) % 4]; });
  return held[3];
}

}  // namespace

PYBIND11_MODULE(freqrob_emulation, m) {
  py::class_<Options>(m, "Options").def(py::init<bool, bool>(), py::kw_only(), py::arg("split"), py::arg("backwards"));
  m.def("ring_sum", &ring_sum);
  m.def("ring_filter", &ring_filter);
  m.def("ring_dot", &ring_dot);
  m.def("mean_amplitude", &mean_amplitude_of);
  m.def("bass", &bass);
  m.def("ring_pass", &ring_pass);
  m.def("bass_pass", &bass_pass);
  m.def("race", &race);
}
