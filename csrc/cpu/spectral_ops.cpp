// The ops on CPU tensors; ops.cpp has their schemas, and freqrob/spectral/ops.py their definitions.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
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

/// A ring map with its properties.
struct KnownMap {
  int64_t id;  // unique in this process
  int64_t height, width, rings;
  std::vector<int32_t> half;
  std::vector<int64_t> counts;
  bool covers_all;

  explicit KnownMap(const RingView& map)
      : height(map.height),
        width(map.width),
        rings(map.rings),
        half(map.half, map.half + map.height * map.columns()),
        covers_all(freqrob::covers_all(map)) {
    static std::atomic<int64_t> maps = 0;
    id = ++maps;
    STD_TORCH_CHECK(is_valid(view()), "half: expected rings from -1 to ", rings - 1);
    counts.resize(rings);
    count_rings(view(), counts.data());
  }

  RingView view() const { return {half.data(), height, width, rings}; }

  bool is(const RingView& map) const {
    return height == map.height && width == map.width && rings == map.rings &&
           std::memcmp(half.data(), map.half, half.size() * sizeof(int32_t)) == 0;
  }
};

/// A map whose entries were checked, because the kernels index by them. The last one is kept, because checking every
/// entry takes longer than transforming an image.
std::shared_ptr<const KnownMap> known_map(const Tensor& x, const Tensor& half, int64_t rings) {
  thread_local std::shared_ptr<const KnownMap> last;
  const RingView map = ring_view(x, half, rings);
  if (!last || !last->is(map)) last = std::make_shared<const KnownMap>(map);
  return last;
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
using OwnedMemory = std::unique_ptr<void, Free>;

OwnedMemory new_memory(int64_t bytes) {
  OwnedMemory memory(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
  if (!memory) throw std::bad_alloc();
  return memory;
}

/// This thread's work space, kept between calls: new pages would take longer than the transform of a small batch.
Scratch kept_scratch(int64_t bytes, const void* kernels, int64_t map) {
  thread_local OwnedMemory memory;
  thread_local int64_t held = 0, prepared_map = 0;
  thread_local const void* prepared_by = nullptr;
  bool is_prepared = map > 0 && map == prepared_map && kernels == prepared_by;
  if (held < bytes) {
    held = 0;
    memory.reset();
    memory = new_memory(bytes);
    held = bytes;
    is_prepared = false;
  }
  prepared_map = map;
  prepared_by = kernels;
  return {memory.get(), is_prepared};
}

/// Distributes the groups of a fused kernel over torch's threads. `map` is the id of the ring map, 0 for none.
template <class T, class Call>
void run(const Fused<T>& fused, void (*kernel)(const Call&, Groups, Scratch), const Call& call, int64_t groups,
         int64_t map) {
  const int64_t bytes = fused.scratch_bytes(call.map);
  parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    if (bytes <= kKeptScratch) return kernel(call, {begin, end}, kept_scratch(bytes, &fused, map));
    kernel(call, {begin, end}, {new_memory(bytes).get(), false});
  });
}

template <class T, class Call>
void run(const Fused<T>& fused, void (*kernel)(const Call&, Groups, Scratch), const Call& call, const KnownMap& map) {
  run(fused, kernel, call, (call.planes + fused.planes_per_group - 1) / fused.planes_per_group, map.id);
}

Tensor ring_sum(const Tensor& input, const Tensor& half, int64_t rings, bool amplitude) {
  check_planes(input, "x");
  const Tensor x = torch::stable::contiguous(input);
  const auto map = known_map(x, half, rings);
  Tensor out = torch::stable::new_empty(x, leading_and(x, {rings}));
  for_dtype(x, [&]<class T>(T) {
    const Fused<T>& fused = fused_for<T>(x);
    const RingSum<T> call = {map->view(), x.const_data_ptr<T>(), out.mutable_data_ptr<T>(), plane_count(x), amplitude};
    run(fused, fused.ring_sum, call, *map);
  });
  return out;
}

Tensor filter(const Tensor& input, const Tensor& input_weights, const Tensor& half, double outside,
              bool over_amplitude) {
  check_planes(input, "x");
  const Tensor x = torch::stable::contiguous(input), weights = torch::stable::contiguous(input_weights);
  const auto map = known_map(x, half, check_weights(weights, x));
  Tensor out = torch::stable::empty_like(x);
  for_dtype(x, [&]<class T>(T) {
    const Fused<T>& fused = fused_for<T>(x);
    const RingFilter<T> call = {.map = map->view(),
                                .x = x.const_data_ptr<T>(),
                                .weights = weights.const_data_ptr<T>(),
                                .out = out.mutable_data_ptr<T>(),
                                .planes = plane_count(x),
                                .outside = map->covers_all ? T(0) : static_cast<T>(outside),
                                .over_amplitude = over_amplitude};
    run(fused, fused.ring_filter, call, *map);
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
  const auto map = known_map(x, half, rings);
  Tensor out = torch::stable::new_empty(x, leading_and(x, {rings}));
  for_dtype(x, [&]<class T>(T) {
    const Fused<T>& fused = fused_for<T>(x);
    const RingDot<T> call = {map->view(), x.const_data_ptr<T>(), y.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
                             plane_count(x)};
    run(fused, fused.ring_dot, call, *map);
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
    run(fused, fused.amplitude_map, call, groups, 0);
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
  static constexpr int64_t kPadding = 16;  // lanes of the widest vector

  std::vector<Real> norms;
  std::unique_ptr<bool[]> weighable;

  BassRings(const KnownMap& map, bool of_power)
      : norms(map.rings + kPadding, Real(1)), weighable(new bool[map.rings + kPadding]()) {
    for (int64_t ring = 0; ring < map.rings; ++ring) {
      const int64_t count = map.counts[ring];
      weighable[ring] = ring > 0 && ring < map.rings - 1 && count > 0;
      if (count > 0) norms[ring] = static_cast<Real>(bass_norm<double>(count, 1, of_power));
    }
  }
};

template <class Pixel>
void bass_of(const Tensor& x, const KnownMap& map, bool of_power, double pixel_scale, const Tensor& out) {
  using Real = typename Bass<Pixel>::Real;
  constexpr bool kIsByte = std::is_same_v<Pixel, uint8_t>;
  constexpr Real kWhite = kIsByte ? 255 : 1;
  const BassRings<Real> rings(map, of_power);
  const Bass<Pixel> call = {.map = map.view(),
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
    run(fused, fused.bass_uint8, call, map);
  } else {
    run(fused, fused.bass, call, map);
  }
}

void bass_out(const Tensor& input, const Tensor& half, int64_t rings, bool of_power, double pixel_scale, Tensor out) {
  check_planes(input, "x");
  check_same(input, out, "out");
  STD_TORCH_CHECK(out.is_contiguous(), "out: expected a contiguous tensor");
  const Tensor x = torch::stable::contiguous(input);
  const auto map = known_map(x, half, rings);
  if (x.scalar_type() == ScalarType::Byte) return bass_of<uint8_t>(x, *map, of_power, pixel_scale, out);
  for_dtype(x, [&]<class T>(T) { bass_of<T>(x, *map, of_power, pixel_scale, out); });
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
