#include "spectral_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <type_traits>
#include <vector>

#include "../bass_gains.h"
#include "../tensors.h"
#include "kernels.h"
#include "ring_passes.h"

namespace freqrob::cpu {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kCoefficientsPerTask = 1 << 14;

RingView ring_view(const Tensor& x, const Tensor& half, int64_t rings) {
  STD_TORCH_CHECK(half.scalar_type() == ScalarType::Int && half.is_cpu() && half.is_contiguous(),
                  "half: expected a contiguous int32 CPU tensor");
  STD_TORCH_CHECK(half.dim() == 2 && half.size(0) == height(x) && half.size(1) == width(x) / 2 + 1,
                  "half: expected the shape (H, W//2+1) of rfft2");
  const RingView map = {half.const_data_ptr<int32_t>(), height(x), width(x), rings};
  STD_TORCH_CHECK(is_valid(map), "half: expected rings from -1 to ", rings - 1);
  return map;
}

/// The fused kernels for x; null where there are none.
const Fused* fused_for(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? nullptr : active_kernels().fused(height(x), width(x));
}

/// Calls task(T{}) with the dtype's type.
template <class Task>
void for_dtype(const Tensor& x, Task task) {
  if (x.scalar_type() == ScalarType::Float) return task(float{});
  if (x.scalar_type() == ScalarType::Double) return task(double{});
  STD_TORCH_CHECK(false, "x: expected float32 or float64");
}

/// This thread's work space, kept between calls: fresh pages would cost more than the transform of a small batch.
void* scratch(int64_t bytes) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local int64_t held = 0;
  if (held < bytes) {
    held = 0;
    const int64_t pages = (bytes + 4095) / 4096;
    memory.reset(std::aligned_alloc(4096, pages * 4096));
    if (!memory) throw std::bad_alloc();
    held = pages * 4096;
  }
  return memory.get();
}

/// Spreads the groups of a fused kernel over torch's threads.
template <class Call>
void run(void (*kernel)(const Call&, Groups, void*), const Call& call, int64_t groups, int64_t scratch_bytes) {
  parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) { kernel(call, {begin, end}, scratch(scratch_bytes)); });
}

template <class Call>
void run(const Fused& fused, void (*kernel)(const Call&, Groups, void*), const Call& call) {
  const int64_t groups = (call.planes + fused.planes_per_group - 1) / fused.planes_per_group;
  run(kernel, call, groups, fused.scratch_bytes(call.map.rings));
}

/// Calls task(plane) for every plane of `coefficients` numbers, on torch's threads.
template <class Task>
void for_each_plane(int64_t planes, int64_t coefficients, Task task) {
  const int64_t grain = kCoefficientsPerTask / coefficients + 1;
  parallel_for(0, planes, grain, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) task(plane);
  });
}

/// The spectrum's numbers, re and im interleaved.
template <class T>
T* numbers(const Tensor& spectrum) {
  return static_cast<T*>(spectrum.mutable_data_ptr());
}

template <class T>
void store_rings(const std::vector<double>& sums, double scale, T* out) {
  for (size_t ring = 0; ring < sums.size(); ++ring) out[ring] = static_cast<T>(sums[ring] * scale);
}

}  // namespace

Tensor ring_sum(const Tensor& input, const Tensor& half, int64_t rings, bool amplitude) {
  check_planes(input, "x");
  const Tensor x = torch::stable::contiguous(input);
  const RingView map = ring_view(x, half, rings);
  const int64_t planes = plane_count(x), coefficients = map.height * map.columns();
  Tensor out = torch::stable::new_empty(x, leading_and(x, {rings}));
  if (const Fused* fused = fused_for(x)) {
    const RingSum call = {map, x.const_data_ptr<float>(), out.mutable_data_ptr<float>(), planes, amplitude};
    run(*fused, fused->ring_sum, call);
    return out;
  }
  for_dtype(x, [&]<class T>(T) {
    const Tensor spectrum = planes ? rfft2(x) : x;
    for_each_plane(planes, coefficients, [&](int64_t plane) {
      std::vector<double> sums(rings);
      sum_rings(map, numbers<T>(spectrum) + plane * 2 * coefficients, amplitude, sums.data());
      store_rings(sums, 1.0, out.mutable_data_ptr<T>() + plane * rings);
    });
  });
  return out;
}

Tensor ring_filter(const Tensor& input, const Tensor& input_weights, const Tensor& half, double outside) {
  check_planes(input, "x");
  const Tensor x = torch::stable::contiguous(input), weights = torch::stable::contiguous(input_weights);
  const int64_t planes = plane_count(x), rings = check_weights(weights, x);
  const RingView map = ring_view(x, half, rings);
  if (const Fused* fused = fused_for(x)) {
    Tensor out = torch::stable::empty_like(x);
    const RingFilter call = {.map = map,
                             .x = x.const_data_ptr<float>(),
                             .weights = weights.const_data_ptr<float>(),
                             .out = out.mutable_data_ptr<float>(),
                             .planes = planes,
                             .outside = covers_all(map) ? 0.0f : static_cast<float>(outside)};
    run(*fused, fused->ring_filter, call);
    return out;
  }
  if (planes == 0) return torch::stable::empty_like(x);
  const Tensor spectrum = rfft2(x);
  const int64_t coefficients = map.height * map.columns();
  for_dtype(x, [&]<class T>(T) {
    for_each_plane(planes, coefficients, [&](int64_t plane) {
      weigh_rings(map, weights.const_data_ptr<T>() + plane * rings, static_cast<T>(outside),
                  numbers<T>(spectrum) + plane * 2 * coefficients);
    });
  });
  return irfft2(spectrum, map.height, map.width);
}

Tensor ring_dot(const Tensor& input_x, const Tensor& input_y, const Tensor& half, int64_t rings) {
  check_planes(input_x, "x");
  check_same(input_x, input_y, "y");
  const Tensor x = torch::stable::contiguous(input_x), y = torch::stable::contiguous(input_y);
  const RingView map = ring_view(x, half, rings);
  const int64_t planes = plane_count(x), coefficients = map.height * map.columns();
  Tensor out = torch::stable::new_empty(x, leading_and(x, {rings}));
  if (const Fused* fused = fused_for(x)) {
    const RingDot call = {map, x.const_data_ptr<float>(), y.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                          planes};
    run(*fused, fused->ring_dot, call);
    return out;
  }
  for_dtype(x, [&]<class T>(T) {
    const Tensor fx = planes ? rfft2(x) : x, fy = planes ? rfft2(y) : y;
    for_each_plane(planes, coefficients, [&](int64_t plane) {
      const T* a = numbers<T>(fx) + plane * 2 * coefficients;
      const T* b = numbers<T>(fy) + plane * 2 * coefficients;
      std::vector<double> sums(rings);
      add_rings(map, sums.data(), [=](int64_t k) { return real_product(a, b, k); });
      store_rings(sums, 1.0 / (map.height * map.width), out.mutable_data_ptr<T>() + plane * rings);
    });
  });
  return out;
}

namespace {

/// The fused kernel sums each group of planes, in an order that does not depend on the number of threads.
void mean_amplitude_fused(const Fused& fused, const Tensor& x, int64_t planes, float* out) {
  const int64_t coefficients = height(x) * (width(x) / 2 + 1);
  const int64_t groups = (planes + fused.planes_per_map - 1) / fused.planes_per_map;
  std::vector<double> sums(groups * coefficients);
  const AmplitudeMap call = {x.const_data_ptr<float>(), sums.data(), planes};
  run(fused.amplitude_map, call, groups, fused.scratch_bytes(0));
  for (int64_t k = 0; k < coefficients; ++k) {
    double sum = 0;
    for (int64_t group = 0; group < groups; ++group) sum += sums[group * coefficients + k];
    out[k] = static_cast<float>(sum / planes);
  }
}

/// Threads share the coefficients, not the planes, for the same reason.
template <class T>
void mean_amplitude_passes(const T* spectrum, int64_t planes, int64_t coefficients, T* out) {
  parallel_for(0, coefficients, kCoefficientsPerTask / planes + 1, [&](int64_t begin, int64_t end) {
    std::vector<double> sums(end - begin);
    for (int64_t plane = 0; plane < planes; ++plane) {
      const T* part = spectrum + 2 * (plane * coefficients + begin);
      for (int64_t k = 0; k < end - begin; ++k) sums[k] += std::sqrt(real_product(part, part, k));
    }
    for (int64_t k = begin; k < end; ++k) out[k] = static_cast<T>(sums[k - begin] / planes);
  });
}

}  // namespace

Tensor mean_amplitude(const Tensor& input) {
  check_planes(input, "x");
  const Tensor x = torch::stable::contiguous(input);
  const int64_t planes = plane_count(x), columns = width(x) / 2 + 1;
  STD_TORCH_CHECK(planes > 0, "x: expected at least one plane to take the mean of");
  Tensor out = torch::stable::new_empty(x, {height(x), columns});
  if (const Fused* fused = fused_for(x)) {
    mean_amplitude_fused(*fused, x, planes, out.mutable_data_ptr<float>());
    return out;
  }
  const Tensor spectrum = rfft2(x);
  for_dtype(x, [&]<class T>(T) {
    mean_amplitude_passes(numbers<T>(spectrum), planes, height(x) * columns, out.mutable_data_ptr<T>());
  });
  return out;
}

namespace {

/// What BaSS needs to know of the rings. a_i is the mean amplitude or the total power of ring i; the innermost and
/// the outermost ring keep their weight, as do empty ones.
struct BassRings {
  std::vector<float> norms;
  std::unique_ptr<bool[]> weighable;

  BassRings(const RingView& map, bool of_power) : norms(map.rings, 1.0f), weighable(new bool[map.rings]) {
    std::vector<double> counts(map.rings);
    add_rings(map, counts.data(), [](int64_t) { return 1; });
    for (int64_t ring = 0; ring < map.rings; ++ring) {
      weighable[ring] = ring > 0 && ring < map.rings - 1 && counts[ring] > 0;
      if (!of_power && counts[ring] > 0) norms[ring] = static_cast<float>(1 / counts[ring]);
    }
  }
};

template <class Pixel>
void bass_fused(const Fused& fused, Bass<Pixel> call) {
  const BassRings rings(call.map, call.of_power);
  call.norms = rings.norms.data();
  call.weighable = rings.weighable.get();
  if constexpr (std::is_same_v<Pixel, float>) {
    run(fused, fused.bass_float, call);
  } else {
    run(fused, fused.bass_uint8, call);
  }
}

/// Gains of one spectrum; returns whether any of them may differ from 1. Those of a spectrum that is not finite are
/// NaN.
bool bass_gains_of(const float* spectrum, const RingView& map, const BassRings& rings, bool of_power, double unit,
                   std::vector<double>& gains) {
  sum_rings(map, spectrum, !of_power, gains.data());
  if (!std::isfinite(std::accumulate(gains.begin(), gains.end(), 0.0))) {
    std::fill(gains.begin(), gains.end(), std::nan(""));
    return true;
  }
  for (int64_t i = 0; i < map.rings; ++i) gains[i] *= (of_power ? unit * unit : unit) * rings.norms[i];
  return bass_gains<ScalarMath>(gains.data(), 1, rings.weighable.get(), map.rings, of_power).eligible > 1;
}

/// Re-weights the spectra in place; returns for each plane whether it may have changed.
std::vector<char> bass_weigh(const Tensor& spectrum, const RingView& map, int64_t planes, bool of_power, double unit) {
  const BassRings rings(map, of_power);
  const int64_t coefficients = map.height * map.columns();
  std::vector<char> changed(planes);
  for_each_plane(planes, coefficients, [&](int64_t plane) {
    float* of_plane = numbers<float>(spectrum) + plane * 2 * coefficients;
    std::vector<double> gains(map.rings);
    changed[plane] = bass_gains_of(of_plane, map, rings, of_power, unit, gains);
    if (changed[plane]) weigh_rings(map, gains.data(), gains[0], of_plane);
  });
  return changed;
}

template <class Pixel>
void store_pixels(const float* values, int64_t count, float white, Pixel* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float v = values[i] < 0 ? 0 : values[i];  // NaN compares false and stays
    out[i] = static_cast<Pixel>(v > white ? white : v);
  }
}

template <class Pixel>
void bass_passes(const Tensor& x, const Bass<Pixel>& call) {
  const int64_t pixels = call.map.height * call.map.width;
  if (call.planes == 0) return;
  const Tensor spectrum = rfft2(torch::stable::to(x, ScalarType::Float));
  const std::vector<char> changed = bass_weigh(spectrum, call.map, call.planes, call.of_power, call.unit);
  const Tensor filtered = irfft2(spectrum, call.map.height, call.map.width);
  const float* values = filtered.const_data_ptr<float>();
  for_each_plane(call.planes, pixels, [&](int64_t plane) {
    const int64_t at = plane * pixels;
    if (changed[plane]) return store_pixels(values + at, pixels, call.white, call.out + at);
    std::copy_n(call.x + at, pixels, call.out + at);  // lest rounding change it
  });
}

template <class Pixel>
void bass_of(const Tensor& x, const RingView& map, bool of_power, double pixel_scale, const Tensor& out) {
  const float white = std::is_same_v<Pixel, uint8_t> ? 255 : 1;
  const Bass<Pixel> call = {.map = map,
                            .norms = nullptr,
                            .weighable = nullptr,
                            .x = x.const_data_ptr<Pixel>(),
                            .out = out.mutable_data_ptr<Pixel>(),
                            .planes = plane_count(x),
                            .unit = static_cast<float>(pixel_scale / white),
                            .white = white,
                            .of_power = of_power};
  const Fused* fused = fused_for(x);
  fused ? bass_fused(*fused, call) : bass_passes(x, call);
}

}  // namespace

void bass_out(const Tensor& input, const Tensor& half, int64_t rings, bool of_power, double pixel_scale, Tensor out) {
  check_planes(input, "x");
  check_same(input, out, "out");
  STD_TORCH_CHECK(out.is_contiguous(), "out: expected a contiguous tensor");
  const Tensor x = torch::stable::contiguous(input);
  const RingView map = ring_view(x, half, rings);
  if (x.scalar_type() == ScalarType::Byte) return bass_of<uint8_t>(x, map, of_power, pixel_scale, out);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "x: expected float32 or uint8");
  bass_of<float>(x, map, of_power, pixel_scale, out);
}

Tensor bass(const Tensor& input, const Tensor& half, int64_t rings, bool of_power, double pixel_scale) {
  const Tensor x = torch::stable::contiguous(input);
  Tensor out = torch::stable::empty_like(x);
  bass_out(x, half, rings, of_power, pixel_scale, out);
  return out;
}

}  // namespace freqrob::cpu
