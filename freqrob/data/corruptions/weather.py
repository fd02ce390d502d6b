"""Snow, frost, fog and bright light."""

from __future__ import annotations

import torch
from torch import Tensor

from freqrob.data.corruptions.filters import compose, decompose, motion_blur, pixels, to_bytes, zoomed
from freqrob.data.corruptions.registry import register_corruption
from freqrob.data.corruptions.streams import Streams

LUMA = (0.299, 0.587, 0.114)


@register_corruption(
    "weather", "low",
    mean=(0.1, 0.1, 0.15, 0.25, 0.3), std=(0.2, 0.2, 0.3, 0.3, 0.3), zoom=(1, 1, 1.75, 2.25, 1.25),
    threshold=(0.6, 0.5, 0.55, 0.6, 0.65), radius=(8, 10, 10, 12, 14), sigma=(3, 4, 4, 6, 12),
    colour=(0.95, 0.9, 0.9, 0.85, 0.8),
    imagenet={
        "mean": (0.1, 0.2, 0.55, 0.55, 0.55), "std": (0.3, 0.3, 0.3, 0.3, 0.3), "zoom": (3, 2, 4, 4.5, 2.5),
        "threshold": (0.5, 0.5, 0.9, 0.85, 0.85), "radius": (10, 12, 12, 12, 12), "sigma": (4, 4, 8, 8, 12),
        "colour": (0.8, 0.7, 0.7, 0.65, 0.55),
    },
)  # fmt: skip
def snow(
    images: Tensor, random: Streams, mean: float, std: float, zoom: float, threshold: float, radius: int, sigma: float,
    colour: float,
) -> Tensor:  # fmt: skip
    """Motion-blurred flakes (noise above a threshold) over an image made paler by 1 − ``colour``."""
    flakes = zoomed(mean + std * random.normal(*images.shape[-2:]), zoom)
    flakes = to_bytes(torch.where(flakes < threshold, 0, flakes))[:, None]
    flakes = pixels(motion_blur(flakes, radius, sigma, random.uniform(-135, -45)))
    x = pixels(images).float()
    grey = (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    x = colour * x + (1 - colour) * torch.maximum(x, 1.5 * grey + 0.5)
    return to_bytes(x + flakes + flakes.flip(-2, -1))


@register_corruption(
    "weather", "low", image=(1, 1, 0.9, 0.85, 0.75), ice=(0.2, 0.3, 0.4, 0.4, 0.45),
    imagenet={"image": (1, 0.8, 0.7, 0.65, 0.6), "ice": (0.4, 0.6, 0.7, 0.7, 0.75)},
)  # fmt: skip
def frost(images: Tensor, random: Streams, image: float, ice: float, photographs: list[Tensor]) -> Tensor:
    """Weighted sum of the image and a random crop of one of the ``photographs`` (3, h, w), clipped."""
    height, width = images.shape[-2:]
    windows = []
    for index, place in zip(random.integers(0, len(photographs)), random.uniform(0, 1, 2), strict=True):
        photograph = photographs[index]
        spare = place.new_tensor(photograph.shape[1:]) - place.new_tensor([height, width])
        top, left = (place * spare).long().tolist()
        windows.append(photograph[:, top : top + height, left : left + width])
    frozen = image * images.double() + ice * torch.stack(windows).double().to(images.device)
    return frozen.clamp(0, 255).to(torch.uint8)


@register_corruption(
    "weather", "low", amount=(0.2, 0.5, 0.75, 1, 1.5), decay=(3, 3, 2.5, 2, 1.75),
    imagenet={"amount": (1.5, 2, 2.5, 2.5, 3), "decay": (2, 2, 1.7, 1.5, 1.4)},
)  # fmt: skip
def fog(images: Tensor, random: Streams, amount: float, decay: float) -> Tensor:
    """Add a random height map to the image, and rescale by max x / (max x + ``amount``)."""
    height, width = images.shape[-2:]
    size = 1 << (max(height, width) - 1).bit_length()
    mist = plasma(random.uniform(-1, 1, size, size), decay)[:, None, :height, :width]
    x = pixels(images)
    brightest = x.amax((1, 2, 3), keepdim=True)
    return to_bytes((x + amount * mist) * brightest / (brightest + amount))


def plasma(noise: Tensor, decay: float) -> Tensor:
    """Fractal height maps (N, S, S) in [0, 1] by the diamond-square algorithm, S a power of two, periodic.

    Each point is the mean of its four neighbours at the current distance, plus its ``noise`` in [−1, 1], which is
    divided by ``decay``² when the distance halves.
    """
    heights, step, wibble = torch.zeros_like(noise), noise.shape[-1], 100.0
    while step >= 2:
        even, odd = slice(None, None, step), slice(step // 2, None, step)
        scaled = wibble**2 * noise
        corners = heights[:, even, even]
        pairs = corners + corners.roll(-1, 1)
        heights[:, odd, odd] = (pairs + pairs.roll(-1, 2)) / 4 + scaled[:, odd, odd]
        middles = heights[:, odd, odd]
        across = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        heights[:, even, odd] = across / 4 + scaled[:, even, odd]
        down = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        heights[:, odd, even] = down / 4 + scaled[:, odd, even]
        step, wibble = step // 2, wibble / decay
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)


@register_corruption("weather", "low", added=(0.05, 0.1, 0.15, 0.2, 0.3), imagenet={"added": (0.1, 0.2, 0.3, 0.4, 0.5)})
def brightness(images: Tensor, _random: Streams, added: float) -> Tensor:
    """Increase the value in HSV."""
    lack, saturation, value = decompose(pixels(images))
    return to_bytes(compose(lack, saturation, (value + added).clamp(max=1)))
