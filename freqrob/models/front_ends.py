"""Front ends: fixed differentiable modules between the pixels and the network."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from freqrob.models.wrappers import TRANSPARENT, FoolboxModule, as_module, unwrapped, with_children
from freqrob.runtime.parameters import checked, fits, is_number
from freqrob.runtime.pixels import check_batch, check_channels, check_channels_first, check_floats, check_scale_of_input

if TYPE_CHECKING:
    from freqrob.data.preprocessing import Preprocessing

FrontEndSpec = str | Mapping[str, Any]


class Normalize(nn.Module):
    """(x − mean) / std by channel, for pixels (N, C, H, W) in [0, 1].

    Mean and std are on the card, not in the state dict. Raises ValueError when they are not finite, differ in length,
    or a std is not positive; when called, TypeError for images that are not floats, and ValueError for another number
    of channels than means, unless there is only one mean.
    """

    mean: Tensor
    std: Tensor

    @checked
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        are_pairs = fits(mean, Sequence[float]) and fits(std, Sequence[float]) and len(mean) == len(std)
        if not are_pairs or not all(map(math.isfinite, mean)) or not all(0 < s < math.inf for s in std):
            raise ValueError(f"mean, std: got {mean} and {std}, expected a mean and a positive std per channel")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        check_floats(images)
        if not torch.jit.is_scripting() and self.mean.shape[0] > 1:
            check_channels(images, self.mean.shape[0])
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


class Blur(nn.Module):
    """Gaussian blur of each channel, for pixels (N, C, H, W) of any size, with circular padding.

    ``sigma`` is in pixels. The kernel has half-width ⌈2.5 σ⌉ (9×9 for σ = 1.5) and sum 1; it is fixed and not in the
    state dict. Raises ValueError for a ``sigma`` that is not positive or exceeds 1000; when called, TypeError for
    images that are not floats, and ValueError for those that look like (N, H, W, C).

    Source: Li et al., PLoS Comput. Biol. 2023; ``lizhe07/blur-net``.
    """

    offsets: Tensor
    kernel: Tensor

    @checked
    def __init__(self, sigma: float = 1.5) -> None:
        super().__init__()
        if not is_number(sigma) or not 0 < sigma <= 1000:
            raise ValueError(f"sigma: got {sigma!r}, expected a positive number of pixels, at most 1000")
        self.sigma = sigma
        offsets = torch.arange(-math.ceil(2.5 * sigma), math.ceil(2.5 * sigma) + 1)
        gaussian = torch.exp(-offsets.double().square() / (2 * sigma**2))
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("kernel", (gaussian / gaussian.sum()).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        check_floats(images)
        if not torch.jit.is_scripting():
            check_channels_first(images)
        height, width = images.shape[-2:]
        return self._circulant(height, images) @ images @ self._circulant(width, images)

    def _circulant(self, size: int, images: Tensor) -> Tensor:
        """The kernel's circular convolution along an axis as a symmetric (size, size) matrix.

        On 32×32 pixels the product is ten times as fast on the CPU as a padded depthwise convolution, wraps around
        images smaller than the kernel, and stays float32 where cuDNN's convolution is TF32.
        """
        pixels = torch.arange(size, device=images.device)
        reached = (pixels[:, None] + self.offsets) % size  # (size, kernel)
        return (self.kernel.to(images.dtype)[:, None] * (reached[..., None] == pixels)).sum(1)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


class PCA(nn.Module):
    """μ + Wᵀ W (x − μ): pixels (N, C, H, W) projected onto the first principal components of the training set.

    μ and W, with orthonormal rows, are NaN until ``set_components`` or a checkpoint sets them. The state dict has them
    as ``mean`` (C, H, W) and ``components`` (K, C·H·W).

    Args:
        components: K.
        shape: (C, H, W) of the images.

    Raises:
        ValueError: an invalid ``shape`` or number of ``components``; images of another shape.
        TypeError: images that are not floats.

    Source: Li et al., PLoS Comput. Biol. 2023 (K = 512 on CIFAR-10; its code is not published).
    """

    mean: Tensor
    components: Tensor

    @checked
    def __init__(self, components: int = 512, shape: Sequence[int] = (3, 32, 32)) -> None:
        super().__init__()
        if not fits(shape, Sequence[int]) or len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape: got {shape!r}, expected positive integers (C, H, W)")
        if not fits(components, int) or not 1 <= components <= math.prod(shape):
            raise ValueError(f"components: got {components!r}, expected an integer from 1 to {math.prod(shape)}")
        self.register_buffer("mean", torch.full(tuple(shape), math.nan))
        self.register_buffer("components", torch.full((components, math.prod(shape)), math.nan))

    def set_components(self, mean: Tensor, components: Tensor) -> None:
        """Set μ (C, H, W) and W (K, C·H·W). Raises ValueError for other shapes, NaN and infinity."""
        for name, new in (("mean", mean), ("components", components)):
            buffer = getattr(self, name)
            if new.shape != buffer.shape or not new.isfinite().all():
                raise ValueError(f"{name}: got shape {tuple(new.shape)}, expected finite {tuple(buffer.shape)}")
            buffer.copy_(new)

    def forward(self, images: Tensor) -> Tensor:
        check_floats(images)
        if images.shape[1:] != self.mean.shape:
            raise ValueError(f"images: got {tuple(images.shape)}, expected (N, {', '.join(map(str, self.mean.shape))})")
        mean, components = self.mean.to(images.dtype), self.components.to(images.dtype)
        scores = (images - mean).flatten(1) @ components.T  # (N, K)
        return mean + (scores @ components).view(images.shape)

    def extra_repr(self) -> str:
        return f"components={len(self.components)}, shape={tuple(self.mean.shape)}"


class InputSize(nn.Module):
    """Resize images (N, C, H, W) of another size to ``size`` (H, W): bilinear, antialiased, differentiable."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def forward(self, images: Tensor) -> Tensor:
        check_batch(images)
        if images.shape[-2:] == self.size:
            return images
        return functional.interpolate(images, self.size, mode="bilinear", antialias=True)

    def extra_repr(self) -> str:
        return f"size={self.size}"


def _bass(**parameters: Any) -> nn.Module:
    from freqrob.spectral.balance import BaSS  # loads the native ops, which most models do not need

    return BaSS(**parameters)


_FRONT_ENDS: dict[str, Callable[..., nn.Module]] = {"bass": _bass, "blur": Blur, "normalize": Normalize, "pca": PCA}


def variant_front_ends(
    variant: str | None,
    shape: Sequence[int],
    *,
    components: int = 512,
    weighting: str = "amplitude",
    blur_sigma: float = 1.5,
) -> list[dict[str, Any]]:
    """Specs of the front ends that a model name's variant stands for; most variants have none.

    ``"pca"`` uses the ``shape`` (C, H, W) of the images and the number of ``components``, ``"bassfront"`` the
    ``weighting``, ``"blur"`` the ``blur_sigma`` (pixels).
    """
    specs = {
        "bassfront": {"name": "bass", "weighting": weighting},
        "blur": {"name": "blur", "sigma": blur_sigma},
        "pca": {"name": "pca", "components": components, "shape": list(shape)},
    }
    return [specs[variant]] if variant in specs else []


def front_end_name(spec: FrontEndSpec) -> str | None:
    """The name in a spec: ``"bass"`` for ``"bass"`` and for ``{"name": "bass", ...}``."""
    return spec if isinstance(spec, str) else spec.get("name")


@checked
def create_front_end(spec: FrontEndSpec) -> nn.Module:
    """The module for a name, or for ``{"name": ..., **parameters}`` as on a card.

    Raises ValueError for an unknown name or parameters that the front end does not take.
    """
    name = front_end_name(spec)
    parameters = {} if isinstance(spec, str) else {key: value for key, value in spec.items() if key != "name"}
    if not isinstance(name, str) or name not in _FRONT_ENDS:
        raise ValueError(f"front_end: got {name!r}, expected one of {', '.join(_FRONT_ENDS)}")
    try:
        return _FRONT_ENDS[name](**parameters)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"front_end: {name!r} does not take {parameters} ({error})") from error


class FrontEnded(nn.Module):
    """``network(front_ends(images))``; ``model.network`` is the bare network.

    Under autocast the front ends keep the images' precision. Raises TypeError for images that are not a tensor of
    floats, and ValueError for other shapes than (N, C, H, W), also those that look like (N, H, W, C), and for pixels in
    0–255. Warns about other values far above 1. To keep each pass fast, only the first plane of CPU tensors is checked;
    ``evaluate`` and ``diagnose`` check all images.

    ``preprocessing`` is that of photographs for this model, if it is known; the model does not apply it.
    """

    def __init__(
        self, front_ends: Iterable[nn.Module], network: nn.Module, preprocessing: "Preprocessing | None" = None
    ) -> None:
        super().__init__()
        self.front_ends = nn.Sequential(*front_ends)
        self.network = network
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        check_batch(images)
        check_scale_of_input(images)
        kind = images.device.type
        is_mixed = kind != "meta" and torch.is_autocast_enabled(kind)  # meta has no autocast, and does not say so
        with torch.autocast(kind, enabled=False) if is_mixed else nullcontext():
            images = self.front_ends(images)
        return self.network(images)


@checked
def with_front_ends(network: nn.Module, specs: Iterable[FrontEndSpec]) -> FrontEnded:
    """The network behind its front ends, in the order in which they are applied.

    Takes (N, C, H, W) pixels in [0, 1]; returns what the network returns. Raises ValueError as ``create_front_end``.
    """
    return FrontEnded([create_front_end(spec) for spec in specs], network)


def front_ends_of(model: nn.Module) -> list[nn.Module]:
    """The front ends of a model, in the order in which they are applied.

    Includes those of a ``FrontEnded``, those of a ``FrontEnded`` that is its network, and front ends at the beginning
    of an ``nn.Sequential``. Looks inside DataParallel, DistributedDataParallel, AveragedModel, ``torch.compile``, the
    first other stage of an ``nn.Sequential``, and Foolbox models. Raises TypeError unless ``model`` is a module or a
    Foolbox model.
    """
    model = unwrapped(as_module(model))
    if isinstance(model, FrontEnded):
        return [*model.front_ends, *front_ends_of(model.network)]
    if isinstance(model, FoolboxModule):
        return front_ends_of(model.network) if isinstance(model.network, nn.Module) else []
    leading, is_sequential = [], type(model).forward is nn.Sequential.forward
    for stage in model.children() if is_sequential else ():
        if not is_front_end(stage):
            return leading + front_ends_of(stage)
        leading.append(stage)
    return leading


def without_front_end(model: nn.Module, front_end: nn.Module) -> nn.Module:
    """A copy of a model without one of its ``front_ends_of``; it shares everything else with ``model``.

    DataParallel, AveragedModel and ``torch.compile`` around the front end are removed, without effect on results.
    Raises ValueError for a module that is not a front end of the model.
    """
    model = unwrapped(model)
    if all(child is not front_end for child in front_ends_of(model)):
        raise ValueError(f"front_end: got {type(front_end).__name__}, expected one of front_ends_of(model)")
    if isinstance(model, FoolboxModule):
        return model.with_network(without_front_end(cast(nn.Module, model.network), front_end))
    inside = model.front_ends if isinstance(model, FrontEnded) else model
    if name := next((name for name, child in inside._modules.items() if child is front_end), None):
        shorter = with_children(inside, {name: None})
        return shorter if inside is model else with_children(model, {"front_ends": shorter})
    if isinstance(model, FrontEnded):
        return with_children(model, {"network": without_front_end(model.network, front_end)})
    name, stage = next((name, child) for name, child in model.named_children() if not is_front_end(child))
    return with_children(model, {name: without_front_end(stage, front_end)})


def network_of(model: nn.Module) -> nn.Module:
    """The network behind the front ends of a ``FrontEnded``, also inside DataParallel and similar wrappers."""
    while isinstance(model, (FrontEnded, *TRANSPARENT)):
        model = model.network if isinstance(model, FrontEnded) else model.module
    return model


def is_front_end(stage: nn.Module) -> bool:
    """Whether a module is one of freqrob's front ends."""
    from freqrob.spectral.balance import BaSS

    return isinstance(stage, (BaSS, Blur, InputSize, Normalize, PCA))
