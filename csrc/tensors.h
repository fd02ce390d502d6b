// Shapes, checks and transforms of tensors, for the ops on CPU and GPU.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "ring_geometry.h"

namespace freqrob {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int64_t height(const Tensor& x) {
  return x.size(x.dim() - 2);
}
inline int64_t width(const Tensor& x) {
  return x.size(x.dim() - 1);
}
inline int64_t plane_count(const Tensor& x) {
  return x.numel() / (height(x) * width(x));
}

/// x's leading dimensions followed by `last`.
inline std::vector<int64_t> leading_and(const Tensor& x, std::initializer_list<int64_t> last) {
  const IntHeaderOnlyArrayRef sizes = x.sizes();
  std::vector<int64_t> shape(sizes.begin(), sizes.end() - 2);
  shape.insert(shape.end(), last);
  return shape;
}

inline void check_planes(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() >= 2, name, ": expected (..., H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(height(x) > 0 && width(x) > 0, name, ": expected planes of at least 1 pixel");
}

inline void check_device(const Tensor& x, const Tensor& y, const char* name) {
  const bool is_same = x.is_cuda() == y.is_cuda() && (!x.is_cuda() || x.get_device_index() == y.get_device_index());
  STD_TORCH_CHECK(is_same, name, ": expected the device of x");
}

inline void check_same(const Tensor& x, const Tensor& y, const char* name) {
  check_device(x, y, name);
  STD_TORCH_CHECK(y.scalar_type() == x.scalar_type(), name, ": expected the dtype of x");
  bool same = x.dim() == y.dim();
  for (int64_t d = 0; same && d < x.dim(); ++d) same = x.size(d) == y.size(d);
  STD_TORCH_CHECK(same, name, ": expected the shape of x");
}

/// The rings of the planes of x, from `half` of RingMap. Its entries are not checked.
inline RingView ring_view(const Tensor& x, const Tensor& half, int64_t rings) {
  check_device(x, half, "half");
  STD_TORCH_CHECK(half.scalar_type() == ScalarType::Int && half.is_contiguous(),
                  "half: expected a contiguous int32 tensor");
  STD_TORCH_CHECK(half.dim() == 2 && half.size(0) == height(x) && half.size(1) == width(x) / 2 + 1,
                  "half: expected the shape (H, W//2+1) of rfft2");
  return {half.const_data_ptr<int32_t>(), height(x), width(x), rings};
}

/// The number of rings of `weights`, which are (..., rings) with the leading dimensions and the dtype of x.
inline int64_t check_weights(const Tensor& weights, const Tensor& x) {
  check_device(x, weights, "weights");
  STD_TORCH_CHECK(weights.dim() == x.dim() - 1 && weights.scalar_type() == x.scalar_type(),
                  "weights: expected (..., rings) with the leading dimensions and the dtype of x");
  const int64_t rings = weights.size(weights.dim() - 1);
  STD_TORCH_CHECK(weights.numel() == plane_count(x) * rings, "weights: expected the leading dimensions of x");
  return rings;
}

inline Tensor rfft2(const Tensor& x) {
  using torch::stable::detail::from;
  const std::array<int64_t, 2> dims = {-2, -1};
  std::array<StableIValue, 4> stack = {from(x), from(std::nullopt), from(IntHeaderOnlyArrayRef(dims)),
                                       from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::fft_rfft2", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::contiguous(torch::stable::detail::to<Tensor>(stack[0]));
}

inline Tensor irfft2(const Tensor& spectrum, int64_t height, int64_t width) {
  using torch::stable::detail::from;
  const std::array<int64_t, 2> dims = {-2, -1}, size = {height, width};
  std::array<StableIValue, 4> stack = {from(spectrum), from(std::optional(IntHeaderOnlyArrayRef(size))),
                                       from(IntHeaderOnlyArrayRef(dims)), from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::fft_irfft2", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::contiguous(torch::stable::detail::to<Tensor>(stack[0]));
}

}  // namespace freqrob
