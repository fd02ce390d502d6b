"""The 19 corruptions against transcriptions with NumPy, SciPy and Pillow, image by image, and by their statistics."""

from colorsys import hsv_to_rgb, rgb_to_hsv
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, find_frost, photographs
from freqrob.data.corruptions.streams import Streams
from freqrob.data.samples import sample_images

ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is the oracle")
RANDOM = {
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
    "elastic_transform", "speckle_noise", "spatter",
}  # fmt: skip
FIRST = 3  # the number of the first image in the tests


@pytest.fixture(scope="module")
def images():
    """Four photographs, white, black, and a grey: (7, 3, 32, 32) uint8."""
    try:
        real = sample_images().images[:4]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    flat = torch.tensor([255, 0, 77], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    return torch.cat([real, flat])


@pytest.fixture(scope="module")
def ice(tmp_path_factory):
    """A folder of five pictures in the place of the photographs."""
    folder, random = tmp_path_factory.mktemp("ice"), np.random.default_rng(0)
    for name in photographs.NAMES:
        Image.fromarray(random.integers(0, 256, (330, 360, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


# Transcriptions: (H, W, 3) uint8, parameters, and a function that draws for this image → (H, W, 3) uint8


def bytes_of(x):
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def blurred(x, sigma, **how):
    return ndimage.gaussian_filter(x, (sigma, sigma, 0)[: x.ndim], **{"mode": "nearest", **how})


def clipped_zoom(x, factor):
    size = len(x)
    kept = int(np.ceil(size / factor))
    top = (size - kept) // 2
    larger = ndimage.zoom(x[top : top + kept, top : top + kept], (factor, factor, 1)[: x.ndim], order=1)
    trim = (len(larger) - size) // 2
    return larger[trim : trim + size, trim : trim + size]


def smeared(x, radius, sigma, angle):
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    total = np.zeros(x.shape)
    for i, weight in zip(steps, weights / weights.sum(), strict=True):
        down, across = (int(np.ceil(i * part - 0.5)) for part in (np.sin(np.radians(angle)), np.cos(np.radians(angle))))
        rows, columns = (np.clip(np.arange(32) + offset, 0, 31) for offset in (down, across))
        total += weight * x[rows][:, columns]
    return (np.round(257 * total) // 257).astype(np.uint8)


def gaussian_noise(x, draw, sigma):
    return bytes_of(x / 255 + draw.normal(3, 32, 32).transpose(1, 2, 0) * sigma)


def speckle_noise(x, draw, sigma):
    return bytes_of(x / 255 * (1 + draw.normal(3, 32, 32).transpose(1, 2, 0) * sigma))


def defocus_blur(x, _draw, radius, sigma):
    at = np.arange(-8, 9) if radius <= 8 else np.arange(-radius, radius + 1)
    disc = (at[:, None] ** 2 + at**2 <= radius**2) * 1.0
    taps = np.exp(-(np.array([1, 0, 1] if radius <= 8 else [2, 1, 0, 1, 2]) ** 2) / (2 * sigma**2))
    kernel = ndimage.convolve(disc / disc.sum(), np.outer(taps, taps) / taps.sum() ** 2, mode="mirror")
    return bytes_of(ndimage.convolve(x / 255, np.float64(np.float32(kernel))[..., None], mode="mirror"))


def glass_blur(x, draw, sigma, reach, rounds):
    x = bytes_of(blurred(x / 255, sigma))
    for _ in range(rounds):
        up, left = draw.integers(1 - reach, reach + 1, 2, 32, 32)
        for h, w in product(range(32 - reach, reach, -1), repeat=2):
            other = h - up[h, w], w - left[h, w]
            x[h, w], x[other] = x[other], x[h, w]  # views: what is there twice afterwards is x[other]
    return bytes_of(blurred(x / 255, sigma))


def motion_blur(x, draw, radius, sigma):
    return smeared(x, radius, sigma, draw.uniform(-45, 45))


def zoom_blur(x, _draw, end, step):
    x, factors = (x / 255).astype(np.float32), np.arange(1, end, step)
    total = sum(clipped_zoom(x, factor) for factor in factors)
    return bytes_of((x + total) / (len(factors) + 1))


def gaussian_blur(x, _draw, sigma):
    return bytes_of(blurred(x / 255, sigma))


def snow(x, draw, mean, std, zoom, threshold, radius, sigma, colour):
    layer = clipped_zoom(mean + std * draw.normal(32, 32), zoom)
    layer = bytes_of(layer * (layer >= threshold))
    layer = smeared(layer, radius, sigma, draw.uniform(-135, -45))[..., None] / 255
    x = x / 255
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    x = colour * x + (1 - colour) * np.maximum(x, grey * 1.5 + 0.5)
    return bytes_of(x + layer + np.rot90(layer, 2))


def frost(x, draw, image, ice, photographs):
    shrunk = photographs[draw.integers(0, 5)]
    top, left = (draw.uniform(0, 1, 2) * (np.array(shrunk.shape[:2]) - 32)).astype(int)
    return np.clip(image * x + ice * shrunk[top : top + 32, left : left + 32], 0, 255).astype(np.uint8)


def fog(x, draw, amount, decay):
    noise, heights, step, wibble = draw.uniform(-1, 1, 32, 32), np.zeros((32, 32)), 32, 100
    while step > 1:
        half = step // 2
        odd = [(i, j) for i in range(half, 32, step) for j in range(half, 32, step)]
        mixed = [(i, j) for i in range(0, 32, half) for j in range(0, 32, half) if (i + j) // half % 2]
        for places, moves in ((odd, product((-half, half), repeat=2)), (mixed, [(0, half), (half, 0)])):
            moves = [*moves, *((-a, -b) for a, b in moves)] if places is mixed else [*moves]
            for i, j in places:
                around = [heights[(i + a) % 32, (j + b) % 32] for a, b in moves]
                heights[i, j] = np.mean(around) + wibble**2 * noise[i, j]
        step, wibble = half, wibble / decay
    heights = (heights - heights.min()) / np.ptp(heights)
    brightest = x.max() / 255
    return bytes_of((x / 255 + amount * heights[..., None]) * brightest / (brightest + amount))


def in_hsv(x, change):
    changed = [hsv_to_rgb(*change(*rgb_to_hsv(*colour))) for colour in x.reshape(-1, 3) / 255]
    return bytes_of(np.array(changed).reshape(x.shape))


def brightness(x, _draw, added):
    return in_hsv(x, lambda h, s, v: (h, s, min(v + added, 1)))


def saturate(x, _draw, factor, added):
    return in_hsv(x, lambda h, s, v: (h, min(s * factor + added, 1), v))


def contrast(x, _draw, kept):
    mean = (x / 255).mean((0, 1))
    return bytes_of((x / 255 - mean) * kept + mean)


def elastic_transform(x, draw, strength, sigma, jitter):
    corners = np.array([[26, 26], [26, 6], [6, 6]])  # across, down
    moved = corners + draw.uniform(-32 * jitter, 32 * jitter, 3, 2)
    back = np.linalg.solve(np.c_[moved, np.ones(3)], corners)
    down, across = np.mgrid[:32, :32]
    source = np.stack([across, down, np.ones((32, 32))], -1) @ back
    x = np.stack([ndimage.map_coordinates(c, source.T[::-1].transpose(0, 2, 1), order=1, mode="mirror")
                  for c in (x / 255).transpose(2, 0, 1)])  # fmt: skip
    noise = draw.uniform(-1, 1, 2, 32, 32)
    dx, dy = (32 * strength * blurred(field, 32 * sigma, mode="reflect", truncate=3) if sigma else 0 * field
              for field in noise)  # fmt: skip
    places = [down + dy, across + dx]
    return bytes_of(np.stack([ndimage.map_coordinates(c, places, order=1, mode="reflect") for c in x], -1))


def pixelate(x, _draw, kept):
    picture, fewer = Image.fromarray(x), int(32 * kept)
    smaller = picture.resize((fewer, fewer), Image.Resampling.BOX)
    return np.asarray(smaller.resize((32, 32), Image.Resampling.BOX))


def jpeg_compression(x, _draw, quality):
    file = BytesIO()
    Image.fromarray(x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def spatter(x, draw, mean, std, sigma, threshold, k, is_mud):
    liquid = blurred(mean + std * draw.normal(32, 32), sigma)
    if is_mud:
        cover = blurred((liquid > threshold) * 1.0, k)[..., None]
        cover = cover * (cover >= 0.8)
        return bytes_of(x / 255 * (1 - cover) + cover * np.array([63, 42, 20]) / 255)
    drops = (liquid * (liquid >= threshold) * 255).astype(np.int64) % 256
    box = np.full((3, 3), 1 / 9)
    distance = ndimage.correlate(np.minimum(distances(canny(drops)), 20), box, mode="mirror")
    relief = ndimage.correlate(equalized(np.floor(distance + 1e-9).astype(int)), [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
                               mode="mirror")  # fmt: skip
    shine = drops * np.round(ndimage.correlate(np.clip(relief, 0, 255.0), box, mode="mirror"))
    return bytes_of(x / 255 + k * (shine / max(shine.max(), 1))[..., None] * np.array([175, 238, 238]) / 255)


def canny(grey):
    """The edges between 50 and 150, a pixel at a time."""
    across, down = (ndimage.sobel(grey, axis, mode="nearest") for axis in (1, 0))
    strength = np.pad(abs(across) + abs(down), 1)
    kept = set()
    for i, j in product(range(32), range(32)):
        x, y, at = across[i, j], down[i, j], (i + 1, j + 1)
        slope = abs(y) / abs(x) if x else np.inf
        if strength[at] <= 50:
            continue
        if slope < np.tan(np.pi / 8):
            before, after, ties = (0, -1), (0, 1), True
        elif slope > np.tan(3 * np.pi / 8):
            before, after, ties = (-1, 0), (1, 0), True
        else:
            side = -1 if x * y > 0 else 1
            before, after, ties = (-1, side), (1, -side), False
        first, second = (strength[at[0] + a, at[1] + b] for a, b in (before, after))
        if strength[at] > first and (strength[at] > second or (ties and strength[at] == second)):
            kept.add((i, j))
    found = [place for place in kept if strength[place[0] + 1, place[1] + 1] > 150]
    edges = np.zeros((32, 32), bool)
    while found:
        i, j = found.pop()
        if (i, j) in kept and not edges[i, j]:
            edges[i, j] = True
            found += product((i - 1, i, i + 1), (j - 1, j, j + 1))
    return edges


def distances(edges):
    """To the nearest edge: the closed form of steps of 1, 1.4 and 2.1969."""
    nearest = np.full((32, 32), np.inf)
    down, across = np.mgrid[:32, :32]
    for i, j in np.argwhere(edges):
        long, short = (pick(abs(down - i), abs(across - j)) for pick in (np.maximum, np.minimum))
        shallow = 2.1969 * short + (long - 2 * short)
        steep = 2.1969 * (long - short) + 1.4 * (2 * short - long)
        nearest = np.minimum(nearest, np.where(2 * short <= long, shallow, steep))
    return nearest


def equalized(grey):
    counts = np.bincount(grey.ravel(), minlength=21)
    lowest = counts[grey.min()]
    if lowest == grey.size:
        return grey
    return np.round((counts.cumsum() - lowest) * 255 / (grey.size - lowest)).astype(int)[grey]


class Draw:
    """The random numbers of one image, without the axis of images."""

    def __init__(self, name, severity, number):
        self._streams = Streams(1, seed=0, purpose=(name, severity), first=number, device=torch.device("cpu"))

    def __getattr__(self, kind):
        return lambda *arguments: getattr(self._streams, kind)(*arguments)[0].numpy()


# What may differ by a grey level: sums that should be whole numbers and fall on either side, by rounding.
SHARE_OFF = {"saturate": 0.04, "elastic_transform": 0.02}


@pytest.mark.parametrize("severities", ["cifar", "imagenet"])
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", sorted(CORRUPTIONS.keys() - {"shot_noise", "impulse_noise"}))
def test_each_corruption_is_its_transcription(images, ice, name, severity, severities):
    parameters = dict(CORRUPTIONS[name].levels_of(severities)[severity - 1])
    if name == "frost":
        whole = [np.asarray(Image.open(ice / f"{name}.png")) for name in photographs.NAMES]
        parameters["photographs"] = [pixels[2::5, 2::5] if severities == "cifar" else pixels for pixels in whole]
    ours = corrupt(images, name, severity, severities=severities, first=FIRST, frost=ice).permute(0, 2, 3, 1).numpy()
    theirs = np.stack([
        globals()[name](image, Draw(name, severity, FIRST + i), **parameters)
        for i, image in enumerate(images.permute(0, 2, 3, 1).numpy().copy())
    ])  # fmt: skip
    off = np.abs(ours.astype(int) - theirs)
    assert off.max() <= 1
    assert (off[:4] > 0).mean() <= SHARE_OFF.get(name, 0.005)


def test_images_of_224_are_corrupted_as_by_another_package():
    found = sample_images().images[1:2].repeat_interleave(7, 2).repeat_interleave(7, 3)
    with np.load(Path(__file__).parents[1] / "golden/imagenet_c.npz") as golden:
        assert {*golden} == CORRUPTIONS.keys() - RANDOM
        for name in golden:
            ours = torch.cat([corrupt(found, name, severity) for severity in SEVERITIES])
            off = np.abs(ours.permute(0, 2, 3, 1).numpy()[:, 3::16, 5::16].astype(int) - golden[name])
            assert off.max() <= 1 and (off > 0).mean() <= 0.01, name


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "speckle_noise"])
def test_noise_has_the_variance_of_the_benchmark(name, severity):
    level, grey = {"gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10), "shot_noise": (500, 250, 100, 75, 50),
                   "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2)}[name][severity - 1], 100 / 255  # fmt: skip
    expected = {"gaussian_noise": level**2, "shot_noise": grey / level, "speckle_noise": (grey * level) ** 2}[name]
    noisy = corrupt(torch.full((20, 3, 32, 32), 100, dtype=torch.uint8), name, severity) / 255
    assert noisy.var().item() == pytest.approx(expected, rel=0.03)
    assert noisy.mean().item() == pytest.approx(grey - 0.5 / 255, abs=0.002), "fractions are dropped"


@pytest.mark.parametrize("severity, share", [(1, 0.01), (2, 0.02), (3, 0.03), (4, 0.05), (5, 0.07)])
def test_impulse_noise_is_salt_and_pepper_in_equal_parts(severity, share):
    noisy = corrupt(torch.full((40, 3, 32, 32), 100, dtype=torch.uint8), "impulse_noise", severity)
    values, counts = noisy.unique(return_counts=True)
    assert values.tolist() == [0, 100, 255]
    pepper, untouched, salt = (counts / noisy.numel()).tolist()
    assert pepper == pytest.approx(share / 2, abs=0.002) and salt == pytest.approx(share / 2, abs=0.002)
    assert (noisy != 100).sum((1, 2, 3)).float().std() > 1, "the number is drawn too"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_more_severe_is_further_from_the_image(images, ice, name):
    # From first to last; but the first two saturations are less, and of elastic_transform the first moves most.
    far = [(corrupt(images[:4], name, s, frost=ice) / 255 - images[:4] / 255).square().mean() for s in SEVERITIES]
    few = {"elastic_transform": (4, 0), "saturate": (2, 3, 4), "spatter": (1, 2), "frost": (0, 2)}
    order = few.get(name, (0, 4) if name in RANDOM else range(5))
    assert [far[i] for i in order] == sorted(far[i] for i in order)
    assert min(far) > 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_does_not_depend_on_its_batch(images, ice, name, monkeypatch):
    monkeypatch.setattr("freqrob.data.corruptions.CHUNK", 3)
    together = corrupt(images, name, 3, seed=5, first=100, frost=ice)
    assert together.shape == images.shape and together.dtype == torch.uint8
    for i in (0, 3, 6):
        alone = corrupt(images[i : i + 1], name, 3, seed=5, first=100 + i, frost=ice)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_seed_number_and_severity_are_each_a_stream_of_their_own(images, ice, name):
    def of(seed=0, first=0):
        return corrupt(images[:1], name, 2, seed=seed, first=first, frost=ice)

    assert torch.equal(of(), of())
    assert not torch.equal(of(), of(seed=1)) and not torch.equal(of(), of(first=1))
    a, b = (Streams(1, seed=0, purpose=(name, s), first=0, device="cpu").normal(4) for s in (1, 2))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS.keys() - RANDOM))
def test_the_others_do_not_depend_on_the_seed(images, name):
    assert torch.equal(corrupt(images, name, 4), corrupt(images, name, 4, seed=9, first=7))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(64, 64), (33, 40)])
def test_other_sizes_and_memory_layouts(images, ice, name, size):
    larger = torch.nn.functional.interpolate(images[:3].float(), size).to(torch.uint8)
    before = larger.clone()
    expected = corrupt(larger, name, 5, frost=ice)
    strided = corrupt(larger.contiguous(memory_format=torch.channels_last), name, 5, frost=ice)
    assert expected.shape == (3, 3, *size) and torch.equal(strided, expected)
    assert torch.equal(larger, before) and not torch.equal(expected, larger)


def test_no_images_give_no_images(images):
    assert corrupt(images[:0], "fog", 1).shape == (0, 3, 32, 32)


def test_fifteen_types_in_groups_and_bands():
    def names(**wanted):
        return [c.name for c in CORRUPTIONS.values() if all(getattr(c, key) == v for key, v in wanted.items())]

    assert len(CORRUPTIONS) == 19
    assert [*CORRUPTIONS][15:] == names(extra=True) == ["speckle_noise", "gaussian_blur", "spatter", "saturate"]
    fifteen = {"extra": False}
    assert names(group="noise", **fifteen) == names(band="high") == ["gaussian_noise", "shot_noise", "impulse_noise"]
    assert names(group="blur", **fifteen) == ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"]
    assert names(group="weather") == ["snow", "frost", "fog", "brightness"]
    assert set(names(band="low")) == {"snow", "frost", "fog", "brightness", "contrast"}
    assert len(names(band="medium")) == 7 and names(band=None) == names(extra=True)


def test_severities_are_the_published_ones():
    published = {
        "gaussian_noise": [(0.04,), (0.06,), (0.08,), (0.09,), (0.10,)],
        "shot_noise": [(500,), (250,), (100,), (75,), (50,)],
        "impulse_noise": [(0.01,), (0.02,), (0.03,), (0.05,), (0.07,)],
        "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        "glass_blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
        "zoom_blur": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
        "snow": [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        "brightness": [(0.05,), (0.1,), (0.15,), (0.2,), (0.3,)],
        "contrast": [(0.75,), (0.5,), (0.4,), (0.3,), (0.15,)],
        "elastic_transform": [
            (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03),
        ],
        "pixelate": [(0.95,), (0.9,), (0.85,), (0.75,), (0.65,)],
        "jpeg_compression": [(80,), (65,), (58,), (50,), (40,)],
        "speckle_noise": [(0.06,), (0.1,), (0.12,), (0.16,), (0.2,)],
        "gaussian_blur": [(0.4,), (0.6,), (0.7,), (0.8,), (1,)],
        "spatter": [
            (0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ],
        "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
    }  # fmt: skip
    assert {name: [tuple(level.values()) for level in c.levels] for name, c in CORRUPTIONS.items()} == published


def test_severities_of_imagenet_are_the_published_ones():
    of_244 = [(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)]
    published = {
        "gaussian_noise": [(0.08,), (0.12,), (0.18,), (0.26,), (0.38,)],
        "shot_noise": [(60,), (25,), (12,), (5,), (3,)],
        "impulse_noise": [(0.03,), (0.06,), (0.09,), (0.17,), (0.27,)],
        "defocus_blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
        "glass_blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
        "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        "zoom_blur": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
        "snow": [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
        "frost": [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
        "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
        "brightness": [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
        "contrast": [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
        "elastic_transform": [pytest.approx(tuple(share * 244 / 224 for share in level)) for level in of_244],
        "pixelate": [(0.6,), (0.5,), (0.4,), (0.3,), (0.25,)],
        "jpeg_compression": [(25,), (18,), (15,), (10,), (7,)],
        "speckle_noise": [(0.15,), (0.2,), (0.35,), (0.45,), (0.6,)],
        "gaussian_blur": [(1,), (2,), (3,), (4,), (6,)],
        "spatter": [
            (0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0), (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1), (0.67, 0.4, 1, 0.65, 1.5, 1),
        ],
        "saturate": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    }  # fmt: skip
    assert {
        name: [*map(tuple, map(dict.values, c.levels_of("imagenet")))] for name, c in CORRUPTIONS.items()
    } == published
    assert all(
        [*a] == [*b] for c in CORRUPTIONS.values() for a, b in zip(c.levels, c.levels_of("imagenet"), strict=True)
    )


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"images": torch.rand(1, 3, 32, 32)}, TypeError, "images: expected uint8 in 0–255, got torch.float32"),
        ({"images": np.zeros((1, 3, 32, 32))}, TypeError, "images: expected a torch.Tensor, got ndarray"),
        ({"images": torch.zeros(3, 32, 32, dtype=torch.uint8)}, ValueError, r"images: expected \(N, 3, H, W\)"),
        ({"images": torch.zeros(1, 1, 32, 32, dtype=torch.uint8)}, ValueError, "images"),
        ({"images": torch.zeros(1, 3, 8, 32, dtype=torch.uint8)}, ValueError, "at least 16"),
        ({"name": "rain"}, ValueError, "name: expected one of gaussian_noise, .* got 'rain'"),
        ({"severity": 0}, ValueError, "severity: expected an integer from 1 to 5, got 0"),
        ({"severity": 2.5}, ValueError, "severity"),
        ({"severity": True}, ValueError, "severity"),
        ({"seed": -1}, ValueError, "seed: expected an integer ≥ 0, got -1"),
        ({"first": 1.5}, ValueError, "first"),
    ],
)
def test_bad_input_is_named(changes, error, message):
    given = {"images": torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "name": "fog", "severity": 1, **changes}
    with pytest.raises(error, match=message):
        corrupt(given.pop("images"), given.pop("name"), given.pop("severity"), **given)


class TestFrost:
    def test_without_photographs_says_how_to_get_them(self, monkeypatch, tmp_path):
        monkeypatch.setattr(photographs, "PACKAGES", ("no-such-package",))
        with pytest.raises(FileNotFoundError, match="no-such-package .* pip install imagecorruptions-imaug"):
            corrupt(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "frost", 1)
        (tmp_path / "frost1.png").write_bytes(b"")
        with pytest.raises(FileNotFoundError, match=f"not all five are in {tmp_path}: .*--frost DIR"):
            find_frost(tmp_path)

    def test_photographs_of_an_installed_package_are_found(self, monkeypatch, ice, tmp_path):
        site = tmp_path / "imagecorruptions" / "frost"
        site.mkdir(parents=True)
        for path in ice.iterdir():
            (site / path.name).write_bytes(path.read_bytes())
        (tmp_path / "imagecorruptions" / "__init__.py").write_text("raise RuntimeError('executed')")
        listed = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.p*")]
        info = tmp_path / "imagecorruptions-9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagecorruptions\nVersion: 9\n")
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in listed))
        monkeypatch.setattr(photographs, "PACKAGES", ("imagecorruptions",))
        monkeypatch.syspath_prepend(tmp_path)
        assert find_frost() == [site / f"frost{i}.png" for i in range(1, 6)]

    def test_a_damaged_photograph_is_named(self, ice, tmp_path):
        for path in ice.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "frost3.png").write_bytes((ice / "frost3.png").read_bytes()[:5000])
        with pytest.raises(ValueError, match="frost: .*frost3.png: not an intact image .*--frost DIR"):
            corrupt(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "frost", 1, frost=tmp_path)

    @pytest.mark.parametrize("severities, side", [("cifar", 80), ("imagenet", 400)])
    def test_photographs_cover_images_larger_than_they_are(self, ice, severities, side):
        black = torch.zeros(2, 3, side, side, dtype=torch.uint8)
        frozen = corrupt(black, "frost", 5, severities=severities, frost=ice)
        assert (frozen[..., :8, :8].amax((2, 3)) > 20).all() and (frozen[..., -8:, -8:].amax((2, 3)) > 20).all()


@pytest.mark.parametrize("side, benchmark", [(64, "cifar"), (127, "cifar"), (128, "imagenet"), (224, "imagenet")])
def test_the_default_severities_are_those_of_the_size(side, benchmark):
    images = torch.full((1, 3, side, side + 10), 99, dtype=torch.uint8)
    found = corrupt(images, "brightness", 3)
    assert torch.equal(found, corrupt(images, "brightness", 3, severities=benchmark))
    assert (found[0, 0, 0, 0] - 99) / 255 == pytest.approx({"cifar": 0.15, "imagenet": 0.3}[benchmark], abs=0.005)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_cuda_agrees_with_cpu(images, ice, name):
    here, there = (corrupt(x, name, 3, frost=ice) for x in (images, images.cuda()))
    assert there.is_cuda
    assert ((here.int() - there.cpu().int()).abs() > 1).float().mean() < 0.001
