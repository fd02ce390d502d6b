"""Search for the smallest perturbations of many images, as in Li et al. (PLoS Computational Biology 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn

from freqrob.attacks.balls import over_pixels
from freqrob.attacks.brendel_bethge import BrendelBethge
from freqrob.attacks.checks import check_answers, explained
from freqrob.attacks.gradient import unlike_images
from freqrob.attacks.minimal import MinimalAttack, Problem
from freqrob.attacks.projected_gradient import pgd
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.data.hybrid import derange
from freqrob.models.keys import hash_of, shared_cache, subject_key
from freqrob.models.sources import as_module
from freqrob.models.state import bare, channels_last, device_of, frozen, measuring
from freqrob.models.twins import COMPARED, fast_gradients
from freqrob.runtime.parameters import Count, Natural, Pixels, checked, stable_repr
from freqrob.runtime.process_state import default_dtype, random_state
from freqrob.runtime.processes import propagate_failure, rank_and_world
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.result_store import Samples
from freqrob.runtime.tensors import check_values, data_hash
from freqrob.runtime.warning import warn

PREDICTED = 250  # images at a time
PGD_STEPS, PGD_SHARE = 40, 0.01 / 0.3  # of the PGD that finds starts: steps, and step size relative to the radius


class Start(IntEnum):
    """Kind of starting point."""

    NONE = 0  # no starting point was found
    IMAGE = 1  # the image itself
    PGD = 2  # an image that PGD found in the large ball
    OTHER = 3  # another of the images that meets the criterion


@dataclass(frozen=True)
class MinimalPerturbations:
    """Result of ``MinimalPerturbationSearch`` for N images, on the CPU.

    Attributes:
        perturbed: (N, C, H, W) float32 in [0, 1], the closest images that meet the criterion; the image itself if none
            was found.
        distances: (N,) lengths in the attack's norm, on pixels in [0, 1]; infinite without success.
        success: (N,) bool.
        classes: (N,) the classes to reach or, untargeted, to leave.
        starts: (N,) values of ``Start`` for the repeat that was kept.
    """

    perturbed: Tensor
    distances: Tensor
    success: Tensor
    classes: Tensor
    starts: Tensor


@checked
def closest(results: Sequence[MinimalPerturbations]) -> MinimalPerturbations:
    """The smallest perturbation of each image among the results of several attacks on the same images and classes.

    The first result wins ties. Raises ValueError for results of other images or classes.

    Source: Li et al., PLoS Comput. Biol. 2023, Methods, who take the smallest over several attacks and seeds.

    >>> import torch
    >>> yes, kind = torch.tensor([True, True]), torch.tensor([0, 0])
    >>> near = MinimalPerturbations(torch.zeros(2, 3, 4, 4), torch.tensor([0.3, 0.1]), yes, kind, kind)
    >>> far = MinimalPerturbations(torch.zeros(2, 3, 4, 4), torch.tensor([0.2, 0.4]), yes, kind, kind)
    >>> closest([near, far]).distances
    tensor([0.2000, 0.1000])
    """
    if not results or any(not torch.equal(result.classes, results[0].classes) for result in results):
        raise ValueError("results: expected at least one, all of the same images and classes")
    kept = torch.stack([result.distances for result in results]).argmin(0)
    values = {
        name: torch.stack([getattr(result, name) for result in results])[kept, torch.arange(len(kept))]
        for name in ("perturbed", "distances", "success", "starts")
    }
    return MinimalPerturbations(**values, classes=results[0].classes)


@checked
@dataclass(frozen=True)
class MinimalPerturbationSearch:
    """Runs an attack on many images in batches, several times, and keeps the smallest perturbation of each image.

    Targets are the labels, permuted so that each image gets another class (``freqrob.data.hybrid.derange``). Attacks
    that follow the decision boundary start from the result of targeted PGD at ``start_eps``, or else from another image
    that is classified as the target; other attacks start at the image. An image that already meets the criterion has
    distance 0. If no start is found or an attack fails on an image, a warning names that image, and the others are
    still attacked.

    Args:
        attack: the L∞ Brendel–Bethge attack by default; ``freqrob_foolbox.MinimalPerturbationSearch`` takes Foolbox's.
        targeted: search for images of the target class, as in Li et al., instead of any wrong class.
        repeats: runs from different random starts; the smallest distance is kept.
        seed: of targets, starts and the attack's random numbers; the global generators are left unchanged.
        batch_size: images per batch. Foolbox's Brendel-Bethge attacks scale their steps with it; Li et al. use 20.
        start_eps: L∞ radius, pixels in [0, 1], of the PGD that finds starts; None: starts are other images only.

    Raises:
        TypeError: ``attack`` is not a ``MinimalAttack``.
        ValueError: a count or radius out of range.

    >>> import torch
    >>> from torch import nn
    >>> from freqrob.attacks import BrendelBethge
    >>> _ = torch.manual_seed(0)
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> images = torch.rand(6, 3, 2, 2)
    >>> search = MinimalPerturbationSearch(BrendelBethge(steps=5), targeted=False)
    >>> search(network, images, network(images).argmax(1)).perturbed.shape
    torch.Size([6, 3, 2, 2])
    """

    attack: MinimalAttack = field(default_factory=BrendelBethge)
    targeted: bool = True
    repeats: Count = 1
    seed: Natural = 0
    batch_size: Count = 20
    start_eps: Pixels | None = 0.5

    @checked
    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
        cache: str | Path | None = None,
        cache_key: str | None = None,
        progress: Progress = no_progress,
    ) -> MinimalPerturbations:
        """The smallest perturbations of ``images``.

        Args:
            model: pixels in [0, 1] → logits; or a Foolbox model with any bounds, for PyTorch tensors.
            images, labels: (N, C, H, W), uint8 or float in [0, 1], and (N,) int64.
            targets: (N,) int64, the classes to reach instead of those of ``derange``.
            cache: a folder for the results of each image, so that an interrupted run continues and a repeated one is
                instant; None for no cache. In an initialised ``torch.distributed`` group the batches are distributed
                over the processes, which need a cache that all of them share.
            cache_key: as for ``freqrob.evaluation.evaluate``, if the model or the attack is your own code.
            progress: wraps iterables in a progress bar.

        Raises:
            TypeError: images, labels or targets that are not dense tensors, or are on the meta device.
            ValueError: images, labels or targets of a wrong shape or dtype, targets for an untargeted run, labels that
                cannot be deranged; or the attack's error, if it fails on every image.
            OSError: the cache cannot be written.
        """
        check_labelled(images, labels)
        classes = self._classes(labels, targets)
        subject = as_module(model)
        cache = shared_cache(cache, cache_key, rank_and_world()[1], bare(subject), self.attack)
        with (
            measuring(subject) as module, frozen(module), channels_last(module), torch.inference_mode(False),
            torch.enable_grad(),
        ):  # fmt: skip
            search = _Search(self, module, to_pixels(images), classes.cpu(), cache, cache_key, progress)
            runs = [search.run(repeat) for repeat in range(self.repeats)]
        with propagate_failure():
            if search.error is not None and not any(run.done.any() for run in runs):
                raise search.error
        return _smallest(runs, to_pixels(images).cpu(), classes.cpu())

    @property
    def minimal_attack(self) -> MinimalAttack:
        """The attack that is run."""
        return self.attack

    def _classes(self, labels: Tensor, targets: Tensor | None) -> Tensor:
        if targets is None:
            return derange(labels, self.seed) if self.targeted else labels
        check_values(targets, "targets")
        if not self.targeted or targets.shape != labels.shape or targets.dtype != torch.int64:
            got = f"{tuple(targets.shape)} {targets.dtype}{'' if self.targeted else ' for an untargeted run'}"
            raise ValueError(f"targets: expected ({len(labels)},) int64, got {got}")
        return targets


class _Search:
    """The repeats of an attack on some images of one model."""

    def __init__(
        self, settings: MinimalPerturbationSearch, module: nn.Module, images: Tensor, classes: Tensor,
        cache: Path | None, cache_key: str | None, progress: Progress,
    ) -> None:  # fmt: skip
        self.device = device_of(module, images)
        self.settings, self.attack, self.module = settings, settings.minimal_attack, module
        self.images, self.classes, self.progress, self.cache = images, classes, progress, cache
        self.key = {
            **subject_key(module, cache_key),
            "data": data_hash(images, classes),
            "attack": f"{type(settings.attack).__module__} {stable_repr(settings.attack)}",
            "attack_hash": hash_of(settings.attack),
            "targeted": settings.targeted,
            "seed": settings.seed,
            "batch_size": settings.batch_size,
            "start_eps": settings.start_eps,
            "package": self.attack.package,
        }
        self.error: Exception | None = None

    def run(self, repeat: int) -> Samples:
        """Attack the batches of this process, and read those of the others from the shared cache."""
        name, (rank, world) = type(self.settings.attack).__name__, rank_and_world()
        with propagate_failure():
            samples = Samples(self.cache, {**self.key, "repeat": repeat}, len(self.images), prefix=name)
            chunks = torch.arange(len(self.images)).split(self.settings.batch_size)[rank::world]
            batches = [remaining for chunk in chunks if len(remaining := chunk[~samples.done[chunk]])]
            what = f"{name} {repeat + 1}/{self.settings.repeats}"
            for indices in self.progress(batches, what, len(batches), sum(map(len, batches))):
                seed = self.settings.seed, repeat, int(indices[0])
                with explained(self.settings.batch_size), random_state(*seed), default_dtype(torch.float32):
                    self._attack(samples, indices)
        samples.gather()
        return samples

    def _attack(self, samples: Samples, indices: Tensor) -> None:
        """Attack one batch. Images on which the attack fails are not stored, so that they can be tried again."""
        images, classes = self.images[indices].to(self.device), self.classes[indices].to(self.device)
        problem = Problem(self.twin, images, classes, self.settings.targeted)
        success = self._meets(self.predicted[indices], classes)
        points, starts = self._starts(problem, success)
        remaining = (~success & (starts != Start.NONE)).nonzero().flatten()
        perturbed, done = images.clone(), torch.ones_like(success)
        if len(remaining):
            results = self._perturb(problem.part(remaining), points[remaining], indices[remaining.cpu()])
            perturbed[remaining], success[remaining], done[remaining] = results
        perturbed = torch.where(over_pixels(success), perturbed, images)
        distance = torch.where(success, self.attack.distance(images, perturbed), torch.inf)
        for index in indices[(starts == Start.NONE).cpu()].tolist():
            warn(f"image {index}: no starting point was found; the others are attacked")
        content = {"perturbed": perturbed, "distance": distance, "success": success, "start": starts}
        samples.put(indices[done.cpu()], **{name: value[done] for name, value in content.items()})

    def _starts(self, problem: Problem, already: Tensor) -> tuple[Tensor, Tensor]:
        """Starting point of each image, and its kind; the image itself if the attack needs no starts."""
        points, starts = problem.images.clone(), torch.full_like(problem.classes, Start.IMAGE)
        if not self.attack.needs_starts or already.all():
            return points, starts
        starts[~already] = Start.NONE
        if self.settings.start_eps is not None:
            remaining = (starts == Start.NONE).nonzero().flatten()
            perturbed, success = _pgd_points(problem.part(remaining), self.settings.start_eps)
            points[remaining[success]], starts[remaining[success]] = perturbed[success], int(Start.PGD)
        for index in (starts == Start.NONE).nonzero().flatten().tolist():
            others = self._meets(self.predicted, problem.classes[index]).nonzero().flatten().cpu()
            if len(others):
                other = others[torch.randint(len(others), ())]
                points[index], starts[index] = self.images[other].to(self.device), int(Start.OTHER)
        return points, starts

    def _perturb(self, problem: Problem, points: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Perturbed images, success, and whether the attack completed; a batch on which it fails is split."""
        try:
            perturbed = self.attack.run(problem, points if self.attack.needs_starts else None)
            if got := unlike_images(perturbed, problem.images):  # otherwise it would be broadcast
                expected = f"a tensor {tuple(problem.images.shape)} {problem.images.dtype} on {self.device}"
                raise TypeError(f"attack: expected {type(self.attack).__name__} to give {expected}, got {got}")
            outside = ((perturbed < 0) | (perturbed > 1)).flatten(1).any(1)
            if outside.any():
                message = f"{type(self.attack).__name__}: {int(outside.sum())} of its images left [0, 1]"
                warn(f"{message}; they count as failed attacks")
            success, done = problem.fooled(self.module(perturbed)).detach() & ~outside, torch.ones_like(outside)
            if problem.model is not self.module:
                only_twin = (problem.fooled(problem.model(perturbed)) & ~success & ~outside).nonzero().flatten()
                if len(only_twin):
                    part = replace(problem.part(only_twin), model=self.module)
                    results = self._perturb(part, points[only_twin], indices[only_twin.cpu()])
                    perturbed[only_twin], success[only_twin], done[only_twin] = results
            return perturbed.detach(), success, done
        except (AssertionError, ValueError) as error:
            if len(indices) == 1:
                self.error = error
                reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
                warn(f"image {indices[0]}: {reason}; the others are attacked")
                failed = torch.zeros_like(problem.classes, dtype=torch.bool)
                return problem.images, failed, failed
        halves = torch.arange(len(indices), device=self.device).split(ceil(len(indices) / 2))
        first, second = (self._perturb(problem.part(half), points[half], indices[half.cpu()]) for half in halves)
        perturbed, success, done = (torch.cat(both) for both in zip(first, second, strict=True))
        return perturbed, success, done

    def _meets(self, predicted: Tensor, classes: Tensor) -> Tensor:
        """Whether predictions meet the criterion: bool."""
        return predicted == classes if self.settings.targeted else predicted != classes

    @cached_property
    def twin(self) -> nn.Module:
        """The attacked network; created at the first batch, because all results may be in the cache."""
        return fast_gradients(self.module, self.images[:COMPARED].to(self.device))

    @cached_property
    @torch.no_grad()
    def predicted(self) -> Tensor:
        """The predicted class of each image: (N,). Raises ValueError for a model with no or too few logits."""
        check_answers(self.module, self.images[:1].to(self.device), self.classes)
        return torch.cat([self.module(images.to(self.device)).argmax(1) for images in self.images.split(PREDICTED)])


def _pgd_points(problem: Problem, eps: float) -> tuple[Tensor, Tensor]:
    """Results of PGD in the L∞ ball with Foolbox's step size, and the mask of those that meet the criterion."""
    perturbed = pgd(
        problem.model, problem.images, problem.classes, eps=eps, step_size=PGD_SHARE * eps, steps=PGD_STEPS,
        targets=problem.classes if problem.targeted else None,
    )  # fmt: skip
    with torch.no_grad():
        return perturbed, problem.fooled(problem.model(perturbed))


def _smallest(runs: Sequence[Samples], images: Tensor, classes: Tensor) -> MinimalPerturbations:
    """The best repeat of each image; an image without a finished repeat counts as failed."""
    best = MinimalPerturbations(
        perturbed=images.clone(),
        distances=torch.full((len(images),), torch.inf, dtype=torch.float32),
        success=torch.zeros(len(images), dtype=torch.bool),
        classes=classes,
        starts=torch.full((len(images),), Start.NONE.value),
    )
    for run in (run for run in runs if run.done.any()):
        closer = run["success"] & (run["distance"] < best.distances)  # false for NaN
        first = run.done & (best.starts == Start.NONE)
        best.starts[closer | first] = run["start"][closer | first]
        for tensor, name in ((best.perturbed, "perturbed"), (best.distances, "distance"), (best.success, "success")):
            tensor[closer] = run[name][closer]
    return best
