// The ops on CPU tensors; ops.cpp has their schemas, and freqrob/spectral/ops.py their definitions.
#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "../bass_gains.h"
#include "../tensors.h"
#include "kernels.h"

namespace freqrob::cpu {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kKeptScratch = 64 << 20;

/// The kernels index by the entries of `half`.
RingView valid_ring_view(const Tensor& x, const Tensor& half, int64_t rings) {
  const RingView map = ring_view(x, half, rings);
  STD_TORCH_CHECK(is_valid(map), "half: expected rings from -1 to ", rings - 1);
  return map;
}

/// The fused kernels for planes like those of x.
template <class T>
const Fused<T>& fused_for(const Tensor& x) {
  if constexpr (std::is_same_v<T, double>) return active_kernels().of_doubles;
  if constexpr (std::is_same_v<T, float>) return active_kernels().of_floats(height(x), width(x));
}

/// Calls task(T{}) with the dtype's type.
template <class Task>
void for_dtype(const Tensor& x, Task task) {
  if (x.scalar_type() == ScalarType::Float) return task(float{});
  if (x.scalar_type() == ScalarType::Double) return task(double{});
  STD_TORCH_CHECK(false, "x: expected float32 or float64");
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Scratch = std::unique_ptr<void, Free>;

Scratch new_scratch(int64_t bytes) {
  Scratch memory(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
  if (!memory) throw std::bad_alloc();
  return memory;
}

/// This thread's work space, kept between calls: fresh pages would cost more than the transform of a small batch.
void* kept_scratch(int64_t bytes) {
  thread_local Scratch memory;
  thread_local int64_t held = 0;
  if (held < bytes) {
    held = 0;
    memory.reset();
    memory = new_scratch(bytes);
    held = bytes;
  }
  return memory.get();
}

/// Spreads the groups of a fused kernel over torch's threads.
template <class Call>
void run(void (*kernel)(const Call&, Groups, void*), const Call& call, int64_t groups, int64_t scratch_bytes) {
  parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    if (scratch_bytes <= kKeptScratch) return kernel(call, {begin, end}, kept_scratch(scratch_bytes));
    kernel(call, {begin, end}, new_scratch(scratch_bytes).get());
  });
}

template <class T, class Call>
void run(const Fused<T>& fused, void (*kernel)(const Call&, Groups, void*), const Call& call) {
  const int64_t groups = (call.planes + fused.planes_per_group - 1) / fused.planes_per_group;
  run(kernel, call, groups, fused.scratch_bytes(call.map));
}

Tensor ring_sum(const Tensor& input, const Tensor& half, int64_t rings, bool amplitude) {
  check_planes(input, "x");
  const Tensor x = torch::stable::contiguous(input);
  const RingView map = valid_ring_view(x, half, rings);
  Tensor out = torch::stable::new_empty(x, leading_and(x, {rings}));
  for_dtype(x, [&]<class T>(T) {
    const Fused<T>& fused = fused_for<T>(x);
    const RingSum<T> call = {map, x.const_data_ptr<T>(), out.mutable_data_ptr<T>(), plane_count(x), amplitude};
    run(fused, fused.ring_sum, call);
  });
  return out;
}

Tensor filter(const Tensor& input, const Tensor& input_weights, const Tensor& half, double outside,
              bool over_amplitude) {
  check_planes(input, "x");
  const Tensor x = torch::stable::contiguous(input), weights = torch::stable::contiguous(input_weights);
  const RingView map = valid_ring_view(x, half, check_weights(weights, x));
  Tensor out = torch::stable::empty_like(x);
  for_dtype(x, [&]<class T>(T) {
    const Fused<T>& fused = fused_for<T>(x);
    const RingFilter<T> call = {.map = map,
                                .x = x.const_data_ptr<T>(),
                                .weights = weights.const_data_ptr<T>(),
                                .out = out.mutable_data_ptr<T>(),
                                .planes = plane_count(x),
                                .outside = covers_all(map) ? T(0) : static_cast<T>(outside),
                                .over_amplitude = over_amplitude};
    run(fused, fused.ring_filter, call);
  });
  return out;
}

Tensor ring_filter(const Tensor& x, const Tensor& weights, const Tensor& half, double outside) {
  return filter(x, weights, half, outside, false);
}

Tensor ring_amplitude_backward(const Tensor& grad, const Tensor& x, const Tensor& half) {
  return filter(x, grad, half, 0, true);
}

Tensor ring_dot(const Tensor& input_x, const Tensor& input_y, const Tensor& half, int64_t rings) {
  check_planes(input_x, "x");
  check_same(input_x, input_y, "y");
  const Tensor x = torch::stable::contiguous(input_x), y = torch::stable::contiguous(input_y);
  const RingView map = valid_ring_view(x, half, rings);
  Tensor out = torch::stable::new_empty(x, leading_and(x, {rings}));
  for_dtype(x, [&]<class T>(T) {
    const Fused<T>& fused = fused_for<T>(x);
    const RingDot<T> call = {map, x.const_data_ptr<T>(), y.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
                             plane_count(x)};
    run(fused, fused.ring_dot, call);
  });
  return out;
}

/// Each group of planes is summed by one thread, in an order that does not depend on the number of threads.
Tensor mean_amplitude(const Tensor& input) {
  check_planes(input, "x");
  const Tensor x = torch::stable::contiguous(input);
  const int64_t planes = plane_count(x);
  STD_TORCH_CHECK(planes > 0, "x: expected at least one plane to take the mean of");
  const RingView map = {nullptr, height(x), width(x), 0};
  const int64_t coefficients = map.height * map.columns();
  Tensor out = torch::stable::new_empty(x, {map.height, map.columns()});
  for_dtype(x, [&]<class T>(T) {
    const Fused<T>& fused = fused_for<T>(x);
    const int64_t groups = (planes + fused.planes_per_map - 1) / fused.planes_per_map;
    std::vector<double> sums(groups * coefficients);
    const AmplitudeMap<T> call = {map, x.const_data_ptr<T>(), sums.data(), planes};
    run(fused.amplitude_map, call, groups, fused.scratch_bytes(map));
    T* const mean = out.mutable_data_ptr<T>();
    for (int64_t k = 0; k < coefficients; ++k) {
      double sum = 0;
      for (int64_t group = 0; group < groups; ++group) sum += sums[group * coefficients + k];
      mean[k] = static_cast<T>(sum / planes);
    }
  });
  return out;
}

/// The rings for BaSS; the innermost and the outermost ring keep their weight, as do empty ones.
template <class Real>
struct BassRings {
  std::vector<Real> norms;
  std::unique_ptr<bool[]> weighable;

  BassRings(const RingView& map, bool of_power) : norms(map.rings, Real(1)), weighable(new bool[map.rings]) {
    std::vector<int64_t> counts(map.rings);
    count_rings(map, counts.data());
    for (int64_t ring = 0; ring < map.rings; ++ring) {
      weighable[ring] = ring > 0 && ring < map.rings - 1 && counts[ring] > 0;
      if (counts[ring] > 0) norms[ring] = static_cast<Real>(bass_norm<double>(counts[ring], 1, of_power));
    }
  }
};

template <class Pixel>
void bass_of(const Tensor& x, const RingView& map, bool of_power, double pixel_scale, const Tensor& out) {
  using Real = typename Bass<Pixel>::Real;
  constexpr bool kIsByte = std::is_same_v<Pixel, uint8_t>;
  constexpr Real kWhite = kIsByte ? 255 : 1;
  const BassRings<Real> rings(map, of_power);
  const Bass<Pixel> call = {.map = map,
                            .norms = rings.norms.data(),
                            .weighable = rings.weighable.get(),
                            .x = x.const_data_ptr<Pixel>(),
                            .out = out.mutable_data_ptr<Pixel>(),
                            .planes = plane_count(x),
                            .unit = static_cast<Real>(pixel_scale / kWhite),
                            .white = kWhite,
                            .of_power = of_power};
  const Fused<Real>& fused = fused_for<Real>(x);
  if constexpr (kIsByte) {
    run(fused, fused.bass_uint8, call);
  } else {
    run(fused, fused.bass, call);
  }
}

void bass_out(const Tensor& input, const Tensor& half, int64_t rings, bool of_power, double pixel_scale, Tensor out) {
  check_planes(input, "x");
  check_same(input, out, "out");
  STD_TORCH_CHECK(out.is_contiguous(), "out: expected a contiguous tensor");
  const Tensor x = torch::stable::contiguous(input);
  const RingView map = valid_ring_view(x, half, rings);
  if (x.scalar_type() == ScalarType::Byte) return bass_of<uint8_t>(x, map, of_power, pixel_scale, out);
  for_dtype(x, [&]<class T>(T) { bass_of<T>(x, map, of_power, pixel_scale, out); });
}

Tensor bass(const Tensor& input, const Tensor& half, int64_t rings, bool of_power, double pixel_scale) {
  const Tensor x = torch::stable::contiguous(input);
  Tensor out = torch::stable::empty_like(x);
  bass_out(x, half, rings, of_power, pixel_scale, out);
  return out;
}

}  // namespace
}  // namespace freqrob::cpu

STABLE_TORCH_LIBRARY_IMPL(freqrob, CPU, m) {
  m.impl("ring_sum", TORCH_BOX(&freqrob::cpu::ring_sum));
  m.impl("ring_filter", TORCH_BOX(&freqrob::cpu::ring_filter));
  m.impl("ring_amplitude_backward", TORCH_BOX(&freqrob::cpu::ring_amplitude_backward));
  m.impl("ring_dot", TORCH_BOX(&freqrob::cpu::ring_dot));
  m.impl("mean_amplitude", TORCH_BOX(&freqrob::cpu::mean_amplitude));
  m.impl("bass", TORCH_BOX(&freqrob::cpu::bass));
  m.impl("bass_out", TORCH_BOX(&freqrob::cpu::bass_out));
}
