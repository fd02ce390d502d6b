"""Check front ends for gradient masking: attacks that do not use the gradient must not be stronger than one that does.

Source of the checks: Athalye et al., ICML 2018; Carlini et al., "On evaluating adversarial robustness", 2019.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from freqrob.attacks import PGD, Square, Transfer
from freqrob.evaluation.accuracy import Result, evaluate
from freqrob.models.front_ends import InputSize, Normalize, front_ends_of, without_front_end
from freqrob.models.preprocessing import Data
from freqrob.runtime.parameters import checked
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.statistics import sign_test

LEVEL = 0.01
HARMLESS = (Normalize, InputSize)  # affine maps do not mask gradients


@dataclass(frozen=True)
class AttackComparison:
    """An attack without the front end's gradient, compared with the white-box attack on the same images.

    Attributes:
        attack: its name.
        accuracy: robust accuracy under it.
        only_it_breaks, only_white_box_breaks: number of images that only this or only the white-box attack breaks.
        p_value: one-sided exact McNemar test of whether this attack is stronger.
    """

    attack: str
    accuracy: float
    only_it_breaks: int
    only_white_box_breaks: int
    p_value: float


@dataclass(frozen=True)
class MaskingCheck:
    """The result of ``check_masking``; ``comparisons`` are with Square and with transfer from the bare network.

    ``from_cache`` says whether all results came from the cache.
    """

    white_box: Result
    comparisons: tuple[AttackComparison, ...]
    level: float = LEVEL
    from_cache: bool = field(default=False, compare=False)

    @property
    def suspects(self) -> list[AttackComparison]:
        """The attacks that are significantly stronger: p < level / number of attacks (Bonferroni)."""
        level = self.level / len(self.comparisons)
        return [comparison for comparison in self.comparisons if comparison.p_value < level]

    def as_dict(self) -> dict[str, Any]:
        return {
            "masking_suspected": bool(self.suspects),
            "level": self.level,
            "from_cache": self.from_cache,
            "white_box": self.white_box.as_dict(),
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }

    def __str__(self) -> str:
        shown = self.suspects or self.comparisons
        head = "gradient masking is suspected: " if self.suspects else "no sign of gradient masking: "
        against = self.white_box.attack.name
        return head + "; ".join(
            f"{comparison.attack} breaks {comparison.only_it_breaks} images that {against} does not, {against} "
            f"{comparison.only_white_box_breaks} that it does not (p = {comparison.p_value:.2g})"
            for comparison in shown
        )


def has_front_end(model: nn.Module) -> bool:
    """Whether a fixed front end other than normalisation or resizing could mask gradients."""
    return not all(isinstance(module, HARMLESS) for module in front_ends_of(model))


def bare_network(model: nn.Module) -> nn.Module:
    """The network with only its normalisation and resizing."""
    for module in front_ends_of(model):
        model = model if isinstance(module, HARMLESS) else without_front_end(model, module)
    return model


@checked
def check_masking(
    model: nn.Module,
    data: Data,
    labels: Tensor | None = None,
    *,
    white_box: PGD | None = None,
    queries: int = 500,
    classes: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> MaskingCheck:
    """Attack a model with and without its front end's gradient, and test whether attacks without it are stronger.

    The attacks without it are Square, which uses only logits, and transfer of PGD's adversarial examples from the bare
    network. Each is compared with the white-box attack on the same images. For example, breaking 8 images that the
    white-box attack does not is significant if every image that the white-box attack breaks is also broken.

    Args:
        model: with a front end, as ``load_model`` gives it: (N, C, H, W) in [0, 1] to logits.
        white_box: attack through the front end; PGD-20 at 8/255 by default.
        queries: number of queries per image of Square.
        data, labels, classes, batch_size, seed, cache, cache_key, progress: as for ``evaluate``.

    Raises:
        ValueError: the model has no front end other than normalisation and resizing; or as ``evaluate``.
        ImportError: Square's package is not installed.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model, samples = freqrob.load_model("bassfront_pgd_at_rn20"), sample_images()[:4]
    >>> check = check_masking(model, samples.images, samples.labels, queries=5)
    >>> 0 <= check.white_box.accuracy <= 1
    True
    """
    if not has_front_end(model):
        raise ValueError("model: expected a FrontEnded with a front end other than normalisation and resizing")
    white_box = white_box or PGD()
    others = (Square(queries, white_box.eps, white_box.norm), Transfer(bare_network(model), white_box))
    white, *blind = evaluate(
        model, data, labels, protocols=["natural"], attacks=[white_box, *others], classes=classes,
        batch_size=batch_size, seed=seed, cache=cache, cache_key=cache_key, progress=progress,
    )  # fmt: skip
    from_cache = all(result.from_cache for result in (white, *blind))
    return MaskingCheck(white, tuple(_compare(white, other) for other in blind), from_cache=from_cache)


def _compare(white: Result, other: Result) -> AttackComparison:
    counts = int((white.correct & ~other.correct).sum()), int((~white.correct & other.correct).sum())
    return AttackComparison(other.attack.name, other.accuracy, *counts, sign_test(*counts))
