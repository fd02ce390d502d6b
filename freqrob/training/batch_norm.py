"""Batch norm with a fast second derivative (few passes over the data), for JaFR and GradAlign.

With x̂ = (x − μ)/σ over the N values of a channel and m the mean over them, the gradient of y = γ x̂ + β is

    g_x = (γ/σ) P g,    P v = v − m(v) − x̂ m(v x̂).

P is symmetric, so the derivative of ⟨u, g_x⟩ with respect to g is (γ/σ) P u: batch norm's backward again. With respect
to x it is −(1/σ) [m(g x̂) (γ/σ) P u + m(u x̂) g_x + x̂ m(u g_x)]. PyTorch's own formula takes about thirty passes.
"""

# pyright: reportIncompatibleMethodOverride=false, reportOptionalMemberAccess=false
# torch declares ``backward`` and ``forward`` with other names, and num_batches_tracked as optional.

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

backward_of_batch_norm = torch.ops.aten.native_batch_norm_backward


def differentiate_twice(network: nn.Module) -> nn.Module:
    """Replace the network's ``BatchNorm2d`` modules by ones with a fast second derivative in train mode.

    Works in place; the new modules share parameters and buffers and compute the same. Second derivatives with respect
    to γ and β are not available.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is not nn.BatchNorm2d:
                continue
            if child.affine and child.track_running_stats and child.momentum is not None:
                setattr(parent, name, _BatchNorm2d.sharing(child))
    return network


class _BatchNorm2d(nn.BatchNorm2d):
    @classmethod
    def sharing(cls, module: nn.BatchNorm2d) -> _BatchNorm2d:
        """A module with the settings, parameters and buffers of another one."""
        shared = cls(module.num_features, module.eps, module.momentum, device="meta").train(module.training)
        shared.load_state_dict(module.state_dict(keep_vars=True), assign=True)
        return shared

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        self._check_input_dim(x)
        self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var
        return _BatchNorm.apply(x, self.weight, self.bias, *statistics, self.momentum, self.eps)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps) -> Tensor:
        y, mean, rstd = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        return *_BatchNormBackward.apply(g, *ctx.saved_tensors, ctx.eps), None, None, None, None


class _BatchNormBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g, x, weight, mean, rstd, eps) -> tuple[Tensor, Tensor, Tensor]:
        statistics = None, None, mean, rstd, True, eps
        g_x, g_weight, g_bias = backward_of_batch_norm(g, x, weight, *statistics, [True, True, True])
        ctx.save_for_backward(g, x, weight, mean, rstd, g_x, g_weight, g_bias)
        ctx.eps = eps
        ctx.mark_non_differentiable(g_weight, g_bias)
        return g_x, g_weight, g_bias

    @staticmethod
    @once_differentiable
    def backward(ctx, u: Tensor, _u_weight, _u_bias):
        g, x, weight, mean, rstd, g_x, g_xhat, g_sum = ctx.saved_tensors  # g_xhat = Σ g x̂, g_sum = Σ g
        statistics = None, None, mean, rstd, True, ctx.eps
        of_g, u_xhat, u_sum = backward_of_batch_norm(u, x, weight, *statistics, [True, True, True])
        count = x.numel() // x.shape[1]
        of_weight = rstd * ((u * g).sum((0, 2, 3), dtype=rstd.dtype) - (u_sum * g_sum + u_xhat * g_xhat) / count)
        by_xhat = -rstd * weight * of_weight / count
        by_x = by_xhat * rstd
        of_x = _channels(-by_x * mean, x).addcmul(x, _channels(by_x, x))
        of_x = of_x.addcmul_(of_g, _channels(-rstd * g_xhat / count, x))
        of_x = of_x.addcmul_(g_x, _channels(-rstd * u_xhat / count, x))
        return of_g, of_x, of_weight, None, None, None


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[None, :, None, None]
