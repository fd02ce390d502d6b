"""Augmentations as torchvision transforms."""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import is_pure_tensor

from freqrob.runtime.parameters import Share, checked
from freqrob.runtime.tensors import check_values
from freqrob.spectral.balance import Weighting, balance_some
from freqrob.spectral.ops import check_images, check_pixel_scale


class RandomBaSS(v2.Transform):
    """BaSS as an augmentation: each image, alone or in a batch, is balanced with probability ``p``.

    Called like transforms of ``torchvision.transforms.v2``, with a tensor, ``tv_tensors.Image`` or PIL image. Labels
    and targets that are passed along are returned unchanged. Tensors are (C, H, W) or (N, C, H, W), float in [0, 1]
    or uint8; shape and dtype are kept.

    Args:
        p: the probability, γ in the paper, in [0, 1].
        weighting, pixel_scale: as for ``freqrob.bass``.
        generator: source of the random numbers; torch's default generator if None.

    Raises:
        TypeError: when called, images that are not dense tensors of floats or uint8, or on the meta device.
        ValueError: arguments out of range; when called, images of another shape, PIL images of another mode than L and
            RGB, or inputs that are batches of different sizes.

    Source: Lin et al., NeurIPS 2023, the augmentation with rate γ (its code is not published).

    Example:
        >>> import torch
        >>> from freqrob.data.transforms import RandomBaSS
        >>> transform = RandomBaSS(p=1.0)
        >>> image, label = transform(torch.rand(3, 32, 32), 7)
        >>> image.shape, label
        (torch.Size([3, 32, 32]), 7)
    """

    _transformed_types = (PIL.Image.Image, tv_tensors.Image, is_pure_tensor)

    @checked
    def __init__(
        self,
        p: Share = 0.5,
        weighting: Weighting = "amplitude",
        pixel_scale: float = 255.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_pixel_scale(pixel_scale)
        self.weighting: Weighting = weighting
        self.p, self.pixel_scale, self.generator = p, pixel_scale, generator

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        for image in flat_inputs:
            if isinstance(image, Tensor):
                check_values(image, "images")
            elif image.mode not in ("L", "RGB"):  # palette indices and alpha are no brightness
                raise ValueError(f"images: expected a PIL image of mode L or RGB, got {image.mode}; use convert('RGB')")
        counts = {len(image) if isinstance(image, Tensor) and image.ndim == 4 else 1 for image in flat_inputs}
        if len(counts) > 1:
            raise ValueError(f"images: expected batches of one size, got {sorted(counts)} images")
        shape = (*counts,)
        return {"chosen": torch.rand(shape, generator=self.generator, dtype=torch.float32) < self.p}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, PIL.Image.Image):
            return functional.to_pil_image(self.transform(functional.pil_to_tensor(inpt), params), inpt.mode)
        check_images(inpt)
        images = inpt.as_subclass(Tensor)
        balanced = balance_some(images, params["chosen"], weighting=self.weighting, pixel_scale=self.pixel_scale)
        if not isinstance(inpt, tv_tensors.Image):
            return balanced
        return tv_tensors.wrap(balanced, like=inpt)  # pyright: ignore[reportCallIssue]  # a decorator hides `like`
