"""Digital corruptions: contrast, elastic transform, pixelation, JPEG, saturation."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from freqrob.data.corruptions.filters import compose, decompose, gaussian, pixels, to_bytes
from freqrob.data.corruptions.registry import register_corruption
from freqrob.data.corruptions.streams import Streams

OF_224 = 244 / 224  # the published parameters are shares of 244 for images of 224 pixels


@register_corruption("digital", "low", kept=(0.75, 0.5, 0.4, 0.3, 0.15), imagenet={"kept": (0.4, 0.3, 0.2, 0.1, 0.05)})
def contrast(images: Tensor, _random: Streams, kept: float) -> Tensor:
    """Move pixels towards the mean of the channel."""
    x = pixels(images)
    mean = x.mean((-2, -1), keepdim=True)
    return to_bytes((x - mean) * kept + mean)


@register_corruption(
    "digital", "medium",
    strength=(0, 0.05, 0.08, 0.1, 0.1), sigma=(0, 0.2, 0.06, 0.04, 0.03), jitter=(0.08, 0.07, 0.06, 0.05, 0.03),
    imagenet={
        "strength": (2 * OF_224, 2 * OF_224, 0.05 * OF_224, 0.07 * OF_224, 0.12 * OF_224),
        "sigma": (0.7 * OF_224, 0.08 * OF_224, 0.01 * OF_224, 0.01 * OF_224, 0.01 * OF_224),
        "jitter": (0.1 * OF_224, 0.2 * OF_224, 0.02 * OF_224, 0.02 * OF_224, 0.02 * OF_224),
    },
)  # fmt: skip
def elastic_transform(images: Tensor, random: Streams, strength: float, sigma: float, jitter: float) -> Tensor:
    """A random affine map, then random displacements smoothed over σ; all three parameters are shares of the size."""
    height, width = images.shape[-2:]
    size = min(height, width)
    x = _affine(pixels(images).float(), random.uniform(-jitter * size, jitter * size, 3, 2))
    noise = random.uniform(-1, 1, 2, height, width)
    moved = _grid(x) + strength * size * gaussian(noise, sigma * size, reflect=True, truncate=3).movedim(1, -1)
    return to_bytes(_sample(x, (2 * moved + 1) / _extent(x) - 1, align_corners=False))


def _affine(x: Tensor, jitter: Tensor) -> Tensor:
    """Warp so that three corners of a central square move by ``jitter`` (N, 3, 2), (across, down)."""
    height, width = x.shape[-2:]
    third = min(height, width) // 3
    corners = _extent(x) // 2 + third * jitter.new_tensor([[1, 1], [1, -1], [-1, -1]])

    def homogeneous(points: Tensor) -> Tensor:
        return F.pad(points, (0, 1), value=1)

    back = torch.linalg.solve(homogeneous(corners + jitter), corners)  # (N, 3, 2)
    source = homogeneous(_grid(x)).flatten(0, 1) @ back
    return _sample(x, (2 * source / (_extent(x) - 1) - 1).unflatten(1, (height, width)), align_corners=True)


def _grid(x: Tensor) -> Tensor:
    """Pixel coordinates (H, W, 2), (across, down)."""
    down, across = (torch.arange(size, dtype=torch.float64, device=x.device) for size in x.shape[-2:])
    return torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)


def _extent(x: Tensor) -> Tensor:
    """Width and height."""
    return torch.tensor([x.shape[-1], x.shape[-2]], dtype=torch.float64, device=x.device)


def _sample(x: Tensor, places: Tensor, align_corners: bool) -> Tensor:
    """Bilinear sampling; the image is mirrored at its outermost pixels or, unless aligned, at their edge."""
    return F.grid_sample(x, places.to(x), padding_mode="reflection", align_corners=align_corners)


@register_corruption(
    "digital", "medium", kept=(0.95, 0.9, 0.85, 0.75, 0.65), imagenet={"kept": (0.6, 0.5, 0.4, 0.3, 0.25)}
)
def pixelate(images: Tensor, _random: Streams, kept: float) -> Tensor:
    """Downsample and upsample with Pillow's box filter: a new pixel is the mean of the pixels with centres in it."""
    height, width = images.shape[-2:]
    fewer = (int(height * kept), int(width * kept))
    return _resized(_resized(images.double(), fewer), (height, width)).to(torch.uint8)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize grey levels (N, C, H, W), rounding after each of the two axes."""
    down, across = (_box(old, new).to(x) for old, new in zip(x.shape[-2:], size, strict=True))
    return (down @ (x @ across.T + 0.5).floor() + 0.5).floor()


def _box(old: int, new: int) -> Tensor:
    """(new, old): the weights of the old pixels in each new one."""
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * (old / new)
    distance = (torch.arange(old) + 0.5 - centres[:, None]) / max(old / new, 1)
    inside = ((distance > -0.5) & (distance <= 0.5)).double()
    return inside / inside.sum(1, keepdim=True)


@register_corruption("digital", "medium", quality=(80, 65, 58, 50, 40), imagenet={"quality": (25, 18, 15, 10, 7)})
def jpeg_compression(images: Tensor, _random: Streams, quality: int) -> Tensor:
    """Compress to JPEG and decode, by Pillow on the CPU."""
    from PIL import Image  # torchvision brings it

    def compressed(image: np.ndarray) -> np.ndarray:
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    made = np.stack([compressed(image) for image in images.permute(0, 2, 3, 1).contiguous().cpu().numpy()])
    return torch.from_numpy(made).to(images.device).permute(0, 3, 1, 2).contiguous()


@register_corruption(
    "digital", extra=True, factor=(0.3, 0.1, 1.5, 2, 2.5), added=(0, 0, 0, 0.1, 0.2),
    imagenet={"factor": (0.3, 0.1, 2, 5, 20), "added": (0, 0, 0, 0.1, 0.2)},
)  # fmt: skip
def saturate(images: Tensor, _random: Streams, factor: float, added: float) -> Tensor:
    """Change the saturation in HSV; where it increases, grey becomes red, as in the benchmark."""
    lack, saturation, value = decompose(pixels(images))
    return to_bytes(compose(lack, (saturation * factor + added).clamp(0, 1), value))
