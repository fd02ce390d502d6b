"""ln B_low, JaFR's measure of the frequencies in a Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from freqrob.runtime.parameters import checked
from freqrob.runtime.tensors import check_values

OFFSET = 1e-5


@checked
def log_b_low(amplitude: Tensor) -> Tensor:
    """ln B_low: how strongly low frequencies dominate the amplitude of a Jacobian.

    With M the quadrant of non-negative frequencies (DC at [0, 0]) and α falling linearly from 1 to −1,

        B_low = Σ_i Π_j M_ij^α_j + Σ_j Π_i M_ij^α_i,

    where 1e-5 is added to M and α, as in the authors' code; the paper's Eq. 10 has no offset. It is computed from
    logarithms here; the authors' code multiplies powers in float32.

    Args:
        amplitude: (H, W//2+1), the mean of |rfft2| over images and channels, from ``ops.mean_amplitude``.

    Returns:
        A scalar: ln 34 ≈ 3.53 for white noise at 32×32, larger if low frequencies dominate. Differentiable.

    Raises:
        TypeError: ``amplitude`` is not a dense tensor of floats, or is on the meta device.
        ValueError: ``amplitude`` is not a matrix of at least 2×2.

    Source: Chan et al., IJCAI 2022, Eq. 8 to 11; alvinchangw/JaFR_IJCAI2022, which reports ln B_low as B_low.

    >>> import torch
    >>> round(log_b_low(torch.ones(32, 17)).item(), 2)
    3.53
    """
    check_values(amplitude, "amplitude")
    if not amplitude.is_floating_point():
        raise TypeError(f"amplitude: expected floats, got {amplitude.dtype}; compute it by mean_amplitude")
    if amplitude.ndim != 2 or min(amplitude.shape) < 2:
        raise ValueError(f"amplitude: expected (H, W//2+1) of at least 2×2, got shape {tuple(amplitude.shape)}")
    log_m = (amplitude[: amplitude.shape[0] // 2 + 1] + OFFSET).log()
    with torch.autocast(amplitude.device.type, enabled=False):  # autocast would multiply in half precision
        rows = log_m @ _exponents(log_m.shape[1], log_m)
        columns = _exponents(log_m.shape[0], log_m) @ log_m
    return torch.logsumexp(torch.cat([rows, columns]), 0)


def _exponents(count: int, like: Tensor) -> Tensor:
    return torch.linspace(1, -1, count, dtype=like.dtype, device=like.device) + OFFSET
