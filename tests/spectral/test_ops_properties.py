"""Every op on whatever comes: any shape, strides, dtype and values give the float64 reference's answer or an error
that names the argument. The examples are the same in every run.

A plane's answer may be off by TOLERANCE times the norms that bound it; numbers that are not finite come out where they
went in, or where the answer does not fit the dtype it is computed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import freqrob
from freqrob.spectral import native, ops, reference
from freqrob.spectral.rings import RingMap

FUSED = [(32, 32), (64, 64), (224, 224)]
SIZES = [*FUSED, (31, 33), (48, 32), (32, 64), (7, 6), (1, 6), (7, 1), (1, 1)]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
LEADING = [(), (1,), (3,), (2, 1), (1, 2, 3), (2, 1, 1), (33,), (0,), (2, 0), (0, 3, 1)]

POLICIES = [
    pytest.param("auto", marks=pytest.mark.skipif(not native.load(), reason="no native library"), id="native"),
    pytest.param("off", id="reference"),
]
each_policy = pytest.mark.parametrize("policy", POLICIES)


@contextmanager
def policy_of(policy: str) -> Iterator[None]:
    with mock.patch.dict(os.environ, FREQROB_NATIVE=policy):
        yield


# Tensors

PLANES: dict[str, Callable[[Tensor, torch.dtype], Tensor]] = {
    "noise": lambda noise, _: noise,
    "pixels": lambda noise, _: noise.sigmoid(),
    "constant": lambda noise, _: torch.full_like(noise, 0.7),
    "zero": lambda noise, _: torch.zeros_like(noise),
    "one pixel": lambda noise, _: spoilt(torch.zeros_like(noise), 1.0),
    "faint": lambda noise, dtype: noise * torch.finfo(dtype).tiny * 1e3,
    "denormal": lambda noise, dtype: noise * torch.finfo(dtype).tiny * 0.1,
    "faint pixels": lambda noise, dtype: noise.sigmoid() * torch.finfo(dtype).tiny,
    "huge": lambda noise, dtype: noise.clamp(-2, 2) * torch.finfo(dtype).max * 1e-4,
    "NaN": lambda noise, _: spoilt(noise, float("nan")),
    "inf": lambda noise, _: spoilt(noise, float("inf")),
    "-inf": lambda noise, _: spoilt(noise, -float("inf")),
    "all inf": lambda noise, _: torch.full_like(noise, float("inf")),
}
PIXELS = ["pixels", "constant", "zero", "one pixel", "faint pixels", "NaN", "inf", "-inf"]


def spoilt(plane: Tensor, value: float) -> Tensor:
    plane = plane.clone()
    plane[..., -1, plane.shape[-1] // 2] = value
    return plane


def stepped(x: Tensor) -> Tensor:
    return torch.stack([torch.full_like(x, 9), x, torch.full_like(x, 9)], -1).repeat_interleave(2, -3)[..., ::2, :, 1]


def misaligned(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def lazily_negated(x: Tensor) -> Tensor:
    if x.dtype not in (torch.float32, torch.float64):
        return x
    return torch.complex(torch.zeros_like(x), -x).conj().imag


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "stepped": stepped,
    "channels last": lambda x: x.movedim(-3, -1).contiguous().movedim(-1, -3) if x.ndim > 2 else x,
    "misaligned": misaligned,
    "one row repeated": lambda x: x[..., :1, :].clone().expand(x.shape),
    "one plane repeated": lambda x: x[:1].clone().expand(x.shape) if x.ndim > 2 else x,
    "one number repeated": lambda x: x[..., :1, :1].clone().expand(x.shape),
    "lazily negated": lazily_negated,
}
layouts = st.sampled_from(list(LAYOUTS))
sizes = st.sampled_from(SIZES)
leadings = st.sampled_from(LEADING)
floats = st.sampled_from(FLOATS)
rules = st.sampled_from(["trunc", "round"])


@st.composite
def planes(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, kinds: list[str]) -> Tensor:
    """(..., H, W) of `dtype`, planes of several kinds beside each other, in some layout."""
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5))
    seed = draw(st.integers(0, 99))
    if dtype == torch.uint8:
        of_type, double = lambda x: (255 * x.nan_to_num(0, 1, 0).clamp(0, 1)).to(dtype), torch.float64
    else:
        of_type, double = lambda x: x.to(dtype), dtype
    count, generator = prod(shape[:-2]), torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *shape[-2:], dtype=torch.float64, generator=generator)
    made = [PLANES[chosen[i % len(chosen)]](plane, double) for i, plane in enumerate(noise)]
    x = torch.stack(made).view(shape) if made else noise.view(shape)
    return LAYOUTS[draw(layouts)](of_type(x))


@st.composite
def tensors(draw: st.DrawFn, kinds: list[str], dtypes: st.SearchStrategy[torch.dtype] = floats) -> Tensor:
    size = draw(sizes)
    leading = draw(leadings.filter(lambda dims: prod(dims) * size[0] < 1000))  # no 33 planes of 224²
    return draw(planes((*leading, *size), draw(dtypes), kinds))


# Right answers


def pixels(x: Tensor) -> int:
    return x.shape[-2] * x.shape[-1]


def of_all(x: Tensor, dims: int) -> Tensor:
    """Whether the last `dims` dimensions hold nothing but finite numbers: (...)."""
    return x.isfinite().flatten(-dims).all(-1)


def size_of(x: Tensor, dims: int = 2) -> Tensor:
    """The norm over the last `dims` dimensions, in float64, where a denormal may count as zero."""
    flat = x.double().flatten(-dims)
    limits = torch.finfo(reference.widen(x).dtype)
    return flat.norm(dim=-1) + limits.tiny * flat.shape[-1] / TOLERANCE[reference.widen(x).dtype]


def squares_must_fit(policy: str, x: Tensor) -> bool:
    """Only the fused kernels scale every plane before they square its spectrum."""
    is_fused = x.shape[-2:] in FUSED and x.dtype != torch.float64
    return policy == "off" or not is_fused


def assert_answers(found: Tensor, expected: Tensor, bound: Tensor, finite: Tensor, lossy: float = 1.0) -> None:
    """Where the input is `finite`, `found` is `expected` to within the tolerance of `bound`, or is not finite because
    `bound` does not fit the dtype to the power of `lossy`; elsewhere it is not finite. `bound` and `finite` are (...).
    """
    assert found.shape == expected.shape
    computed, kept = reference.widen(found[:0]).dtype, torch.finfo(found.dtype)
    limits = torch.finfo(computed)
    slack = TOLERANCE[computed] * bound[(..., *[None] * (found.ndim - bound.ndim))] + limits.tiny**lossy * 1e4
    if kept.bits < 32:
        slack = slack + (expected.abs() + kept.tiny) * kept.eps
    right = (found.double() - expected).abs() <= slack
    fits = finite & (bound < min(limits.max**lossy / 4, kept.max / 4))
    assert right[fits].all(), f"{found[fits][~right[fits]][:3]}, expected {expected[fits][~right[fits]][:3]}"
    assert (right | ~found.isfinite())[finite].all(), "a finite number that is wrong"
    assert not found.isfinite()[~finite].any(), "a finite number from a plane that is not"


@each_policy
@given(x=tensors(list(PLANES)), rule=rules, of=st.sampled_from(["power", "amplitude"]))
def test_ring_sum(policy: str, x: Tensor, rule: str, of: str) -> None:
    rings = RingMap(*x.shape[-2:], rule)
    with policy_of(policy):
        found = ops.ring_sum(x, rings, of)
    spectrum = size_of(x) * pixels(x) ** 0.5
    bound = spectrum**2 if of == "power" else spectrum * pixels(x) ** 0.5
    lossy = 0.5 if of == "amplitude" and squares_must_fit(policy, x) else 1.0
    assert found.dtype == reference.widen(x).dtype
    assert_answers(found, reference.ring_sum(x.double(), rings, of), bound, of_all(x, 2), lossy)


@each_policy
@given(data=st.data(), x=tensors(list(PLANES)), rule=rules)
def test_ring_filter(policy: str, data: st.DataObject, x: Tensor, rule: str) -> None:
    rings = RingMap(*x.shape[-2:], rule)
    leading = x.shape[data.draw(st.integers(0, x.ndim - 2)) : -2]  # the rest is broadcast
    w = data.draw(planes((*leading, 1, rings.rings), x.dtype, list(PLANES)))[..., 0, :]
    with policy_of(policy):
        found = ops.ring_filter(x, w, rings)
    assert found.dtype == x.dtype
    expected = reference.ring_filter(x.double(), w.double(), rings)
    finite = of_all(x, 2) & of_all(w[..., rings.counts > 0], 1)
    assert_answers(found, expected, size_of(x) * size_of(w, 1) * pixels(x) ** 0.5, finite)


@each_policy
@given(data=st.data(), x=tensors(list(PLANES)), rule=rules)
def test_ring_dot(policy: str, data: st.DataObject, x: Tensor, rule: str) -> None:
    rings = RingMap(*x.shape[-2:], rule)
    y = data.draw(planes(tuple(x.shape), x.dtype, list(PLANES)))
    with policy_of(policy):
        found = ops.ring_dot(x, y, rings)
    assert found.dtype == reference.widen(x).dtype
    finite = of_all(x, 2) & of_all(y, 2)
    expected = reference.ring_dot(x.double(), y.double(), rings)
    assert_answers(found, expected, size_of(x) * size_of(y) * pixels(x), finite)


@each_policy
@given(x=tensors(list(PLANES)))
def test_mean_amplitude(policy: str, x: Tensor) -> None:
    with policy_of(policy):
        if x.numel() == 0:
            with pytest.raises(ValueError, match="^x: expected at least one plane"):
                ops.mean_amplitude(x)
            return
        found = ops.mean_amplitude(x)
    assert found.dtype == reference.widen(x).dtype
    bound, lossy = size_of(x).max() * pixels(x) ** 0.5, 0.5 if squares_must_fit(policy, x) else 1.0
    amplitude = torch.fft.rfft2(x.double()).abs()
    expected = amplitude.flatten(0, -3).mean(0) if x.ndim > 2 else amplitude
    assert_answers(found, expected, bound, x.isfinite().all(), lossy)


@st.composite
def pictures(draw: st.DrawFn) -> Tensor:
    return draw(tensors(PIXELS, st.sampled_from([*FLOATS, torch.uint8, torch.uint8])))


def balanced(x: Tensor, weighting: str, pixel_scale: float, rule: str = "trunc") -> tuple[Tensor, Tensor, Tensor]:
    """The reference's answer, by how much an op may miss it, and for which planes rounding does not decide more."""
    rings = RingMap(*x.shape[-2:], rule)
    v = x.double() * (pixel_scale / (255 if x.dtype == torch.uint8 else 1))
    profile = reference.bass_profile(v, rings, weighting)
    weights = reference.bass_weights(profile)
    gain = (weights if weighting == "amplitude" else weights.sqrt()).amax(-1)
    white, eps = (255, 0) if x.dtype == torch.uint8 else (1, torch.finfo(x.dtype).eps)
    rounding = TOLERANCE[torch.float64 if x.dtype == torch.float64 else torch.float32] * size_of(v)
    slack = white * (rounding * gain / pixel_scale + 2 * eps) + (x.dtype == torch.uint8)
    takes_part = profile[..., 1:-1]
    brink = (takes_part > 0.5) & (takes_part < 2) | (takes_part > 0) & (takes_part < 1e-3 * pixel_scale)
    exact = x if x.dtype == torch.uint8 else x.double()
    expected = reference.balance(exact, rings, weighting=weighting, pixel_scale=pixel_scale)
    return expected.double(), slack[..., None, None], ~brink.any(-1)


def assert_balanced(found: Tensor, x: Tensor, answer: tuple[Tensor, Tensor, Tensor]) -> None:
    expected, slack, decided = answer
    finite = of_all(x, 2)
    assert found.dtype == x.dtype and found.shape == x.shape
    near = ((found.double() - expected).abs() <= slack).flatten(-2).all(-1)
    assert near[finite & decided].all()
    assert not found[~finite].isfinite().any()


weightings, scales = st.sampled_from(["amplitude", "power"]), st.sampled_from([255.0, 1, 100.0])


@each_policy
@given(x=pictures(), rule=rules, weighting=weightings, pixel_scale=scales)
def test_bass(policy: str, x: Tensor, rule: str, weighting: str, pixel_scale: float) -> None:
    with policy_of(policy):
        found = ops.balance(x, RingMap(*x.shape[-2:], rule), weighting=weighting, pixel_scale=pixel_scale)
    assert_balanced(found, x, balanced(x, weighting, pixel_scale, rule))


@each_policy
@given(x=pictures(), weighting=weightings, layout=layouts.filter(lambda name: "repeated" not in name))
def test_bass_into_a_tensor_of_any_layout(policy: str, x: Tensor, weighting: str, layout: str) -> None:
    out = LAYOUTS[layout](torch.zeros(x.shape, dtype=x.dtype))
    with policy_of(policy):
        assert freqrob.bass(x, weighting=weighting, out=out) is out
    assert_balanced(out, x, balanced(x, weighting, 255))


@each_policy
@given(x=pictures(), weighting=weightings)
def test_bass_in_place(policy: str, x: Tensor, weighting: str) -> None:
    answer, before, x = balanced(x, weighting, 255), x.clone(), x.clone()
    with policy_of(policy):
        assert freqrob.bass(x, weighting=weighting, out=x) is x
    assert_balanced(x, before, answer)


@given(x=pictures(), weighting=weightings)
def test_bass_as_the_authors_wrote_it(x: Tensor, weighting: str) -> None:
    found = freqrob.bass(x, weighting=weighting, empty_rings="as_published")
    exact = x if x.dtype == torch.uint8 else x.double()
    rings = RingMap(*x.shape[-2:])
    expected = reference.balance(exact, rings, weighting=weighting, empty_rings="as_published").to(x.dtype)
    assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))


# Errors

NO_PLANES = [torch.rand(()), torch.rand(8), torch.rand(3, 0), torch.rand(2, 0, 3), torch.rand(0)]
NO_FLOATS = [None, 3, "x", [[1.0]], torch.ones(8, 8, dtype=torch.int64), torch.ones(8, 8).bool(), torch.ones(8, 8) + 0j]
OPS = {
    "ring_sum": ops.ring_sum,
    "ring_filter": lambda x: ops.ring_filter(x, torch.rand(RingMap(8, 8).rings)),
    "ring_dot": lambda x: ops.ring_dot(x, x),
    "mean_amplitude": ops.mean_amplitude,
    "bass": ops.balance,
}


@each_policy
@given(x=st.sampled_from(NO_PLANES + NO_FLOATS), name=st.sampled_from(list(OPS)))
def test_what_is_no_planes_is_refused_by_name(policy: str, x: object, name: str) -> None:
    with policy_of(policy), pytest.raises((TypeError, ValueError), match="^x: expected "):
        OPS[name](x)
    with policy_of(policy), pytest.raises((TypeError, ValueError), match="^images: expected "):
        freqrob.bass(x)


@each_policy
@given(shape=st.tuples(leadings, sizes), other=st.tuples(leadings, sizes), dtypes=st.tuples(floats, floats))
def test_arguments_that_do_not_fit_are_refused_by_name(policy: str, shape, other, dtypes) -> None:
    """What fits is computed."""
    x, y = (torch.ones(*lead, *size, dtype=dtype) for (lead, size), dtype in zip((shape, other), dtypes, strict=True))
    weights = torch.ones(*other[0], RingMap(*other[1]).rings, dtype=dtypes[1])
    ring_map = RingMap(*other[1])
    alike = x.shape == y.shape and x.dtype == y.dtype
    with policy_of(policy):
        refused_unless(alike, "y", lambda: ops.ring_dot(x, y))
        refused_unless(alike, "out", lambda: ops.balance(x, out=y))
        refused_unless(shape[1] == other[1], "ring_map", lambda: ops.ring_sum(x, ring_map))
        rings_fit = weights.dtype == x.dtype and weights.shape[-1] == RingMap(*shape[1]).rings
        refused_unless(rings_fit and broadcasts(shape[0], other[0]), "weights", lambda: ops.ring_filter(x, weights))


def broadcasts(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(other), strict=False))


def refused_unless(fits: bool, name: str, call: Callable[[], Tensor]) -> None:
    if fits:
        call()
    else:
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected "):
            call()


@pytest.mark.skipif(not native.load(), reason="no native library")
@given(
    half=st.sampled_from([RingMap(32, 32).half, RingMap(7, 6).half, torch.full((32, 17), -1, dtype=torch.int32)]),
    change=st.sampled_from(["none", "long", "transposed", "below", "above", "empty", "scalar"]),
    size=st.sampled_from([(32, 32), (7, 6), (31, 33)]),
    rings=st.sampled_from([-(2**40), -1, 0, 1, 4, 5, 22, 23, 24, 99]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int32, torch.uint8]),
)
def test_the_native_ops_themselves_refuse_what_would_crash(half, change, size, rings, dtype) -> None:
    changes = {
        "none": lambda: half,
        "long": lambda: half.long(),
        "transposed": lambda: half.mT,
        "below": lambda: half - 2,
        "above": lambda: half + 1,
        "empty": lambda: half[:0],
        "scalar": lambda: half[0, 0],
    }
    x, half, op = torch.ones(2, *size, dtype=dtype), changes[change](), torch.ops.freqrob
    weights = torch.ones(2, max(0, min(rings, 99)), dtype=dtype)
    for call in (
        lambda: op.ring_sum(x, half, rings, False),
        lambda: op.ring_dot(x, x, half, rings),
        lambda: op.ring_filter(x, weights, half),
        lambda: op.bass(x, half, rings, False, 255.0),
        lambda: op.bass_out(x, half, rings, True, 255.0, torch.empty(2, *size)),
    ):
        try:
            call()
        except (RuntimeError, MemoryError):
            continue
        valid = half.dtype == torch.int32 and half.shape == (size[0], size[1] // 2 + 1) and half.is_contiguous()
        assert valid and half.min() >= -1 and half.max() < max(rings, 0)
