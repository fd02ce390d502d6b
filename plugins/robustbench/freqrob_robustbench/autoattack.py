"""The interface of the package ``autoattack`` for RobustBench, implemented by ``freqrob.attacks.autoattack``.

Unlike ``pyautoattack``, it can read its state from disk. Source of the interface:
https://github.com/fra31/auto-attack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from msgspec import Struct
from torch import Tensor, nn

from freqrob.attacks.autoattack import Version, create_adversary, perturb
from freqrob.attacks.balls import BALLS
from freqrob.attacks.checks import explained, warn_of_model
from freqrob.attacks.gradient import check_attacked
from freqrob.models.keys import model_hash, unseen
from freqrob.models.state import device_of, measuring
from freqrob.runtime.files import check_file, write_json
from freqrob.runtime.parameters import Natural, NotNegative, check_counts, checked
from freqrob.runtime.process_state import random_state
from freqrob.runtime.reading import read_json
from freqrob.runtime.tensors import data_hash
from freqrob.runtime.warning import warn

Log = Callable[[str], None]
# Attributes of the package's attacks that users change and that a state file records
PARAMETERS = {
    "apgd": ("n_iter", "n_restarts", "eot_iter"),
    "apgd_targeted": ("n_iter", "n_restarts"),
    "fab": ("n_iter", "n_restarts"),
    "square": ("n_queries", "n_restarts"),
}


class AutoAttack:
    """AutoAttack with the arguments of the authors' package.

    ``device`` defaults to the model's. ``verbose`` prints each step; ``log_path`` is a file for the same lines.
    The package's attacks are attributes: ``apgd``, ``apgd_targeted``, ``fab`` and ``square``.
    Raises ValueError for a custom version without attacks, and for attacks with another version.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        norm: Literal["Linf", "L2", "L1"] = "Linf",
        eps: NotNegative = 0.3,
        seed: Natural | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: Version = "standard",
        device: torch.device | str | None = None,
        log_path: str | Path | None = None,
    ) -> None:
        if bool(attacks_to_run) != (version == "custom"):
            expected = "the attacks of the custom version" if version == "custom" else f"none of version {version!r}"
            raise ValueError(f"attacks_to_run: expected {expected}, got {', '.join(attacks_to_run) or 'none'}")
        self.model, self.norm, self.epsilon, self.version = model, norm, eps, version
        self.device, self.verbose, self.log_path = device or device_of(model), verbose, log_path
        self._adversary = create_adversary(model, norm, eps, seed, version, attacks_to_run, self.device)
        self.attacks_to_run: list[str] = list(self._adversary.attacks_to_run)

    def __getattr__(self, name: str) -> Any:
        """Look up other attributes on the package's object."""
        if name == "_adversary":  # not set yet while an instance is copied
            raise AttributeError(name)
        return getattr(self._adversary, name)

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | Path | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Adversarial examples (N, C, H, W) for images and labels (N,); with ``return_labels`` also predicted classes.

        With ``state_path`` an interrupted run resumes; images that an earlier call broke are returned unchanged, with
        their labels as classes. Raises TypeError and ValueError for images that are not floats in [0, 1] and for
        invalid labels, ValueError for a state of another model, other images or another attack. Warns if a change of
        the model's code could not be detected, and about models whose results may mislead.
        """
        check_attacked(x_orig, y_orig)
        check_counts(bs=bs)
        state = self._state(x_orig, y_orig, state_path)
        with explained(bs), self._logging() as log, random_state(), measuring(self.model), torch.no_grad():
            x_adv, y_adv = self._evaluate(x_orig, y_orig, bs, state, log)
        return (x_adv, y_adv) if return_labels else x_adv

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """Results of ``run_standard_evaluation`` for each attack on its own."""
        attacks, results = self.attacks_to_run, {}
        try:
            for attack in attacks:
                self.attacks_to_run = [attack]
                results[attack] = self.run_standard_evaluation(x_orig, y_orig, bs, return_labels)
        finally:
            self.attacks_to_run = attacks
        return results

    def _state(self, x_orig: Tensor, y_orig: Tensor, path: str | Path | None) -> EvaluationState:
        if path is None:
            return EvaluationState(None, {}, torch.ones(len(x_orig), dtype=torch.bool))
        if Path(path).exists() and (reason := unseen(self.model)):
            about = f"a change of the model's code since then could not be detected ({reason})"
            warn(f"state_path: resumes from {path}; {about}")
        subject: dict[str, Any] = {
            "model": model_hash(self.model),
            "data": data_hash(x_orig, y_orig),
            "norm": self.norm,
        }
        subject |= {"eps": self.epsilon, "attacks": list(self.attacks_to_run), "version": self.version}
        subject["parameters of the attacks"] = {
            f"{attack}.{name}": getattr(getattr(self, attack), name)
            for attack, names in PARAMETERS.items()
            for name in names
        }
        return EvaluationState.open(Path(path), subject, len(x_orig))

    def _evaluate(
        self, x_orig: Tensor, y_orig: Tensor, bs: int, state: EvaluationState, log: Log
    ) -> tuple[Tensor, Tensor]:
        """Run the remaining attacks on the remaining images, batch by batch."""
        x_adv, y_adv, began = x_orig.clone(), y_orig.clone(), time.monotonic()
        attacks = [attack for attack in self.attacks_to_run if attack not in state.run_attacks]
        if not attacks or not state.flags.any():
            return x_adv, y_adv
        log(f"using {self.version} version including {', '.join(attacks)}")
        needed_by = ", ".join(attack for attack in attacks if attack != "square")
        first = x_orig[:bs].to(self.device), y_orig[:bs].to(self.device)
        warn_of_model(self.model, *first, all_labels=y_orig, needed_by=needed_by, alternative="square")
        if not state.run_attacks:
            y_adv = torch.cat([self._classes(images) for images in x_orig.split(bs)]).to(y_orig)
            state.flags &= (y_adv == y_orig).cpu()
        log(f"initial accuracy: {state.accuracy:.2%}")
        for attack in attacks:
            batches = state.flags.nonzero().flatten().split(bs) if state.flags.any() else ()
            for number, indices in enumerate(batches, 1):
                batch = x_orig[indices].to(self.device), y_orig[indices].to(self.device)
                adversarial = perturb(self._adversary, [attack], *batch)
                classes = self._classes(adversarial)
                is_broken = (classes != batch[1]).cpu()
                broken = indices[is_broken]
                x_adv[broken], y_adv[broken] = adversarial.to(x_adv)[is_broken], classes.to(y_adv)[is_broken]
                state.flags[broken] = False
                state.to_disk()
                counts = f"{len(broken)} out of {len(indices)} successfully perturbed"
                log(f"{attack} - {number}/{len(batches)} - {counts}")
            state.run_attacks.add(attack)
            state.to_disk()
            seconds = f"total time {time.monotonic() - began:.1f} s"
            log(f"robust accuracy after {attack.upper()}: {state.accuracy:.2%} ({seconds})")
        if self.norm in BALLS:
            log(f"max {self.norm} perturbation: {BALLS[self.norm].length(x_adv - x_orig).max():.5f}")
        log(f"robust accuracy: {state.accuracy:.2%}")
        return x_adv, y_adv

    def _classes(self, images: Tensor) -> Tensor:
        return self.model(images.to(self.device)).argmax(1)

    @contextmanager
    def _logging(self) -> Iterator[Log]:
        """Yield a function that prints a line if ``verbose`` and appends it to ``log_path`` if given."""
        with ExitStack() as stack:
            file = stack.enter_context(open(self.log_path, "a", encoding="utf-8")) if self.log_path else None

            def log(line: str) -> None:
                if self.verbose:
                    print(line)
                if file:
                    print(line, file=file, flush=True)

            yield log


class _Saved(Struct):
    """The file of an ``EvaluationState``."""

    subject: dict[str, Any]
    run_attacks: set[str]
    robust_flags: list[bool]


@dataclass
class EvaluationState:
    """Mask of the robust images, saved in a JSON file if there is one; ``subject`` identifies the evaluation."""

    path: Path | None
    subject: dict[str, Any]
    flags: Tensor  # (N,) bool
    run_attacks: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, path: Path, subject: dict[str, Any], count: int) -> EvaluationState:
        """The state in the file, or the initial state if there is none. Raises ValueError for another ``subject``."""
        check_file(path, "state_path")
        if not path.exists():
            return cls(path, subject, torch.ones(count, dtype=torch.bool))
        state = cls.from_disk(path)
        differ = [key for key in subject if state.subject.get(key) != subject[key]]
        if not differ and len(state.flags) != count:
            differ = ["number of images"]
        if differ:
            raise ValueError(f"state_path: {path} has another {', '.join(differ)}; remove it or give another path")
        return state

    @classmethod
    def from_disk(cls, path: str | Path) -> EvaluationState:
        """Read a file. Raises FileNotFoundError, or ValueError for a damaged file."""
        try:
            content = read_json(path, _Saved)
        except ValueError as error:
            raise ValueError(f"state_path: {error}, expected the state of an evaluation") from error
        flags = torch.tensor(content.robust_flags, dtype=torch.bool)
        return cls(Path(path), content.subject, flags, content.run_attacks)

    def to_disk(self) -> None:
        if self.path is None:
            return
        content = {"subject": self.subject, "run_attacks": sorted(self.run_attacks)}
        write_json(self.path, content | {"robust_flags": self.flags.tolist()})

    @property
    def accuracy(self) -> float:
        return self.flags.double().mean().item()

    @property
    def robust_flags(self) -> Tensor:
        """The mask (N,) as 0.0 and 1.0, because ``robustbench.eval`` computes its mean."""
        return self.flags.float()
