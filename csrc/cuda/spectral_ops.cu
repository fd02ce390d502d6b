#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "../tensors.h"
#include "kernels.h"

namespace freqrob::cuda {
namespace {

using passes::RingSums;
using passes::Summand;

/// Makes a tensor's GPU the current one, and knows the stream that torch uses there.
class Queue {
 public:
  explicit Queue(const Tensor& x) : guard_(x.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  /// Raises the error of a launch, if there was one.
  void check() const {
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "freqrob: a CUDA kernel was not launched: ", cudaGetErrorString(error));
  }

  template <class Call, class... More>
  void launch(const Call& call, More... more) const {
    cuda::launch(call, more..., stream_);
    check();
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

void check_float(const Tensor& x) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "x: expected float32 on a GPU");
}

/// Contiguous, and on an address that allows two pixels at a time.
Tensor aligned(const Tensor& input) {
  const Tensor x = torch::stable::contiguous(input);
  const bool is_aligned = reinterpret_cast<uintptr_t>(x.const_data_ptr()) % (2 * x.element_size()) == 0;
  return is_aligned ? x : torch::stable::clone(x);
}

bool is_fused(const Tensor& x, int64_t rings) {
  return height(x) == width(x) && (width(x) == 32 || width(x) == 64) && rings <= plane::max_rings(width(x));
}

const Complex<float>* numbers(const Tensor& spectrum) {
  return static_cast<const Complex<float>*>(spectrum.const_data_ptr());
}

/// Room for the sums over the rings of that many planes, in parts.
struct Parts {
  int64_t count;
  Tensor sums;

  Parts(const Tensor& x, const RingView& map, int64_t planes)
      : count(ring_parts(planes, map.height * map.columns())),
        sums(torch::stable::new_empty(x, {planes, count, map.rings + 1}, ScalarType::Float)) {}

  RingSums of(const RingView& map, const Tensor& fx, const Tensor& fy, int64_t planes, Summand summand) const {
    return {map, numbers(fx), numbers(fy), sums.mutable_data_ptr<float>(), planes, count, summand};
  }
};

Tensor ring_sum(const Tensor& input, const Tensor& half, int64_t rings, bool amplitude) {
  check_planes(input, "x");
  check_float(input);
  const Tensor x = aligned(input);
  const RingView map = ring_view(x, half, rings);
  const int64_t planes = plane_count(x);
  Tensor out = torch::stable::new_empty(x, leading_and(x, {rings}));
  if (out.numel() == 0) return out;
  const Queue queue(x);
  if (is_fused(x, rings)) {
    const plane::RingSum call = {
        map.half, static_cast<int>(rings), x.const_data_ptr<float>(), out.mutable_data_ptr<float>(), planes, amplitude};
    queue.launch(call, width(x));
    return out;
  }
  const Tensor spectrum = rfft2(x);
  const Parts parts(x, map, planes);
  const Summand summand = amplitude ? Summand::kAmplitude : Summand::kProduct;
  const RingSums call = parts.of(map, spectrum, spectrum, planes, summand);
  queue.launch(call);
  launch_sum(call, 1.0f, out.mutable_data_ptr<float>(), queue.stream());
  queue.check();
  return out;
}

Tensor ring_filter(const Tensor& input, const Tensor& input_weights, const Tensor& half, double outside) {
  check_planes(input, "x");
  check_float(input);
  const Tensor x = aligned(input), weights = torch::stable::contiguous(input_weights);
  const int64_t rings = check_weights(weights, x), planes = plane_count(x);
  const RingView map = ring_view(x, half, rings);
  if (planes == 0) return torch::stable::empty_like(x);
  const Queue queue(x);
  if (is_fused(x, rings)) {
    Tensor out = torch::stable::empty_like(x);
    const plane::RingFilter call = {.half = map.half,
                                    .rings = static_cast<int>(rings),
                                    .x = x.const_data_ptr<float>(),
                                    .weights = weights.const_data_ptr<float>(),
                                    .out = out.mutable_data_ptr<float>(),
                                    .planes = planes,
                                    .outside = static_cast<float>(outside)};
    queue.launch(call, width(x));
    return out;
  }
  Tensor spectrum = rfft2(x);
  queue.launch(passes::RingGains{.map = map,
                                 .gains = weights.const_data_ptr<float>(),
                                 .stride = rings,
                                 .outside = static_cast<float>(outside),
                                 .x = static_cast<Complex<float>*>(spectrum.mutable_data_ptr()),
                                 .planes = planes});
  return irfft2(spectrum, map.height, map.width);
}

Tensor ring_dot(const Tensor& input_x, const Tensor& input_y, const Tensor& half, int64_t rings) {
  check_planes(input_x, "x");
  check_float(input_x);
  check_same(input_x, input_y, "y");
  const Tensor x = aligned(input_x), y = aligned(input_y);
  const RingView map = ring_view(x, half, rings);
  const int64_t planes = plane_count(x);
  Tensor out = torch::stable::new_empty(x, leading_and(x, {rings}));
  if (out.numel() == 0) return out;
  const Queue queue(x);
  if (is_fused(x, rings)) {
    const plane::RingDot call = {map.half,
                                 static_cast<int>(rings),
                                 x.const_data_ptr<float>(),
                                 y.const_data_ptr<float>(),
                                 out.mutable_data_ptr<float>(),
                                 planes};
    queue.launch(call, width(x));
    return out;
  }
  const Tensor fx = rfft2(x), fy = rfft2(y);
  const Parts parts(x, map, planes);
  const RingSums call = parts.of(map, fx, fy, planes, Summand::kProduct);
  queue.launch(call);
  launch_sum(call, 1.0f / (map.height * map.width), out.mutable_data_ptr<float>(), queue.stream());
  queue.check();
  return out;
}

Tensor mean_amplitude(const Tensor& input) {
  check_planes(input, "x");
  check_float(input);
  const Tensor x = aligned(input);
  const int64_t planes = plane_count(x), size = width(x), columns = size / 2 + 1;
  STD_TORCH_CHECK(planes > 0, "x: expected at least one plane to take the mean of");
  Tensor out = torch::stable::new_empty(x, {height(x), columns});
  const Queue queue(x);
  if (is_fused(x, 0)) {
    const int64_t teams = amplitude_teams(planes, size);
    Tensor sums = torch::stable::new_empty(x, {teams, columns, size});
    const plane::AmplitudeSums call = {x.const_data_ptr<float>(), sums.mutable_data_ptr<float>(), planes, teams};
    queue.launch(call, size);
    launch_mean(call, size, out.mutable_data_ptr<float>(), queue.stream());
    queue.check();
    return out;
  }
  const Tensor spectrum = rfft2(x);
  queue.launch(passes::MeanAmplitude{numbers(spectrum), out.mutable_data_ptr<float>(), planes, height(x) * columns});
  return out;
}

PixelType pixel_type(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return PixelType::kFloat32;
    case ScalarType::BFloat16:
      return PixelType::kBFloat16;
    case ScalarType::Byte:
      return PixelType::kUInt8;
    default:
      STD_TORCH_CHECK(false, "x: expected float32, bfloat16 or uint8");
  }
}

void bass_passes(const Queue& queue, const Tensor& x, const RingView& map, const plane::Bass& fused) {
  const int64_t planes = fused.planes, rings = map.rings + 1;
  Tensor spectrum = rfft2(torch::stable::to(x, ScalarType::Float));
  const Parts parts(x, map, planes);
  const RingSums sums =
      parts.of(map, spectrum, spectrum, planes, fused.of_power ? Summand::kProduct : Summand::kAmplitude);
  queue.launch(sums);

  Tensor counts = torch::stable::new_zeros(x, {rings}, ScalarType::Int);
  Tensor shares = torch::stable::new_empty(x, {planes, rings, 3}, ScalarType::Float);
  Tensor profile = torch::stable::new_empty(x, {planes, rings}, ScalarType::Float);
  Tensor gains = torch::stable::new_empty(x, {planes, rings}, ScalarType::Float);
  Tensor changes = torch::stable::new_empty(x, {planes}, ScalarType::Bool);
  launch_count(map, counts.mutable_data_ptr<int32_t>(), queue.stream());
  queue.check();
  queue.launch(passes::BassGains{.sums = sums,
                                 .multiplicity = counts.const_data_ptr<int32_t>(),
                                 .shares = static_cast<BassTotals<float>*>(shares.mutable_data_ptr()),
                                 .profile = profile.mutable_data_ptr<float>(),
                                 .gains = gains.mutable_data_ptr<float>(),
                                 .changes = changes.mutable_data_ptr<bool>(),
                                 .unit = fused.unit,
                                 .of_power = fused.of_power});
  queue.launch(passes::RingGains{.map = map,
                                 .gains = gains.const_data_ptr<float>(),
                                 .stride = rings,
                                 .outside = 1,
                                 .x = static_cast<Complex<float>*>(spectrum.mutable_data_ptr()),
                                 .planes = planes});
  const Tensor filtered = irfft2(spectrum, map.height, map.width);
  queue.launch(passes::Pixels{.filtered = filtered.const_data_ptr<float>(),
                              .x = fused.x,
                              .out = fused.out,
                              .changes = changes.const_data_ptr<bool>(),
                              .planes = planes,
                              .pixels = map.height * map.width,
                              .type = fused.pixels,
                              .white = fused.white});
}

void bass_out(const Tensor& input, const Tensor& half, int64_t rings, bool of_power, double pixel_scale, Tensor out) {
  check_planes(input, "x");
  check_same(input, out, "out");
  STD_TORCH_CHECK(out.is_contiguous(), "out: expected a contiguous tensor");
  const Tensor x = aligned(input), aligned_out = aligned(out);
  const RingView map = ring_view(x, half, rings);
  const PixelType pixels = pixel_type(x);
  const float white = pixels == PixelType::kUInt8 ? 255 : 1;
  if (x.numel() == 0) return;
  const Queue queue(x);
  const plane::Bass call = {.half = map.half,
                            .rings = static_cast<int>(rings),
                            .x = x.const_data_ptr(),
                            .out = aligned_out.mutable_data_ptr(),
                            .planes = plane_count(x),
                            .pixels = pixels,
                            .unit = static_cast<float>(pixel_scale) / white,
                            .white = white,
                            .of_power = of_power};
  if (is_fused(x, rings)) {
    queue.launch(call, width(x));
  } else {
    bass_passes(queue, x, map, call);
  }
  if (aligned_out.const_data_ptr() != out.const_data_ptr()) torch::stable::copy_(out, aligned_out);
}

Tensor bass(const Tensor& x, const Tensor& half, int64_t rings, bool of_power, double pixel_scale) {
  check_planes(x, "x");
  Tensor out = torch::stable::empty_like(torch::stable::contiguous(x));
  bass_out(x, half, rings, of_power, pixel_scale, out);
  return out;
}

}  // namespace
}  // namespace freqrob::cuda

STABLE_TORCH_LIBRARY_IMPL(freqrob, CUDA, m) {
  m.impl("ring_sum", TORCH_BOX(&freqrob::cuda::ring_sum));
  m.impl("ring_filter", TORCH_BOX(&freqrob::cuda::ring_filter));
  m.impl("ring_dot", TORCH_BOX(&freqrob::cuda::ring_dot));
  m.impl("mean_amplitude", TORCH_BOX(&freqrob::cuda::mean_amplitude));
  m.impl("bass", TORCH_BOX(&freqrob::cuda::bass));
  m.impl("bass_out", TORCH_BOX(&freqrob::cuda::bass_out));
}
