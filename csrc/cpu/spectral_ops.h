// The ops on CPU tensors; ops.cpp has their schemas and freqrob/spectral/ops.py what they mean.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace freqrob::cpu {

using torch::stable::Tensor;

Tensor ring_sum(const Tensor& x, const Tensor& half, int64_t rings, bool amplitude);
Tensor ring_filter(const Tensor& x, const Tensor& weights, const Tensor& half, double outside);
Tensor ring_amplitude_backward(const Tensor& grad, const Tensor& x, const Tensor& half);
Tensor ring_dot(const Tensor& x, const Tensor& y, const Tensor& half, int64_t rings);
Tensor mean_amplitude(const Tensor& x);
Tensor bass(const Tensor& x, const Tensor& half, int64_t rings, bool of_power, double pixel_scale);
void bass_out(const Tensor& x, const Tensor& half, int64_t rings, bool of_power, double pixel_scale, Tensor out);

}  // namespace freqrob::cpu
