"""The package ``autoattack`` as RobustBench uses it, over ``pyautoattack``; with a state that evaluations go on from.

It differs in its arguments' names, and returns one tensor where pyautoattack returns two. What pyautoattack writes of
its state it cannot read back.

Source: the interface of https://github.com/fra31/auto-attack.
"""

# pyright: reportIncompatibleMethodOverride=false, reportArgumentType=false, reportOptionalIterable=false
# It has the arguments of the authors' package, which differ from those of the class that it extends.

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyautoattack
import torch
from msgspec import Struct
from pyautoattack import autoattack as implementation
from pyautoattack import state as implementation_state
from torch import Tensor, nn

from freqrob.attacks.autoattack import fit, prepared
from freqrob.attacks.checks import explained
from freqrob.attacks.gradient import check_attacked
from freqrob.models.keys import data_hash, model_hash, unseen
from freqrob.models.state import device_of, measuring
from freqrob.runtime.files import check_file, write_json
from freqrob.runtime.parameters import check_not_negative, checked
from freqrob.runtime.process_state import random_state
from freqrob.runtime.reading import read_json


class AutoAttack(pyautoattack.AutoAttack):
    """AutoAttack with the arguments of the authors' package.

    ``device`` is the model's unless given. With ``verbose`` each step is printed; ``log_path`` keeps the same lines.
    Raises ValueError for a custom version without attacks, and for attacks with another version.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        device: torch.device | str | None = None,
        log_path: str | Path | None = None,
    ) -> None:
        check_not_negative(eps=eps)
        if version == "custom" and not attacks_to_run:
            raise ValueError("attacks_to_run: expected the attacks of the custom version, got none")
        attacks = list(attacks_to_run) or None
        device = device or device_of(model)
        super().__init__(model, attacks=attacks, device=device, eps=eps, norm=norm, seed=seed, version=version)
        self.verbose, self.log_path = verbose, log_path

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | Path | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Adversarial images (N, C, H, W) of images and labels (N,); with ``return_labels`` also their classes.

        A run with ``state_path`` that was stopped goes on where it was; images that an earlier call broke come back as
        they were given, with their labels. Raises TypeError and ValueError for images that are not floats in [0, 1] and
        for their labels, ValueError for a state of another model, other images or another attack; warns where a change
        of the model's code could not be noticed.
        """
        check_attacked(x_orig, y_orig)
        if state_path is None:
            found = self._run(x_orig, y_orig, bs)
        else:
            if Path(state_path).exists() and (reason := unseen(self.model)):
                about = f"a change of the model's code since then could not be noticed ({reason})"
                warnings.warn(f"state_path: goes on with {state_path}; {about}", stacklevel=2)
            subject = {"model": model_hash(self.model), "data": data_hash(x_orig, y_orig), "norm": self.norm}
            subject |= {"eps": self.epsilon, "attacks": list(self.attacks_to_run)}
            found = self._go_on(x_orig, y_orig, bs, EvaluationState.open(Path(state_path), subject, len(x_orig)))
        return found if return_labels else found[0]

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """What ``run_standard_evaluation`` gives for each attack alone."""
        attacks, found = self.attacks_to_run, {}
        try:
            for attack in attacks:
                self.attacks_to_run = [attack]
                found[attack] = self.run_standard_evaluation(x_orig, y_orig, bs, return_labels)
        finally:
            self.attacks_to_run = attacks
        return found

    def _run(self, x_orig: Tensor, y_orig: Tensor, bs: int) -> tuple[Tensor, Tensor]:
        with (
            explained(bs), self._logging(), random_state(), measuring(self.model),
            prepared(self.model, self.attacks_to_run, x_orig.dtype),
        ):  # fmt: skip
            fit(self, self.model, x_orig, y_orig)
            return super().run_standard_evaluation(x_orig, y_orig, batch_size=bs)

    def _go_on(self, x_orig: Tensor, y_orig: Tensor, bs: int, state: EvaluationState) -> tuple[Tensor, Tensor]:
        """The attacks that are left, on the images that are left."""
        attacks, left = self.attacks_to_run, state.flags.nonzero().flatten()
        x_adv, y_adv = x_orig.clone(), y_orig.clone()
        self.attacks_to_run = [attack for attack in attacks if attack not in state.run_attacks]
        try:
            if len(left) and self.attacks_to_run:
                with patch.object(implementation, "EvaluationState", _recorder(state, left)):
                    x_adv[left], y_adv[left] = self._run(x_orig[left], y_orig[left], bs)
        finally:
            self.attacks_to_run = attacks
        return x_adv, y_adv

    @contextmanager
    def _logging(self) -> Iterator[None]:
        handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)] if self.verbose else []
        handlers += [logging.FileHandler(self.log_path)] if self.log_path else []
        level, propagate = self.logger.level, self.logger.propagate
        for handler in handlers:
            self.logger.addHandler(handler)
        self.logger.setLevel(logging.DEBUG if handlers else logging.WARNING)
        self.logger.propagate = not handlers
        try:
            yield
        finally:
            self.logger.setLevel(level)
            self.logger.propagate = propagate
            for handler in handlers:
                self.logger.removeHandler(handler)
                handler.close()


class _Saved(Struct):
    """The file of an ``EvaluationState``."""

    subject: dict[str, Any]
    run_attacks: set[str]
    robust_flags: list[bool]


@dataclass
class EvaluationState:
    """Which images are still correctly classified, in a JSON file; ``subject`` says what was evaluated."""

    path: Path
    subject: dict[str, Any]
    flags: Tensor  # (N,) bool
    run_attacks: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, path: Path, subject: dict[str, Any], count: int) -> EvaluationState:
        """What the file says, or the beginning where there is none. Raises ValueError for another ``subject``."""
        check_file(path, "state_path")
        if not path.exists():
            return cls(path, subject, torch.ones(count, dtype=torch.bool))
        state = cls.from_disk(path)
        differ = [key for key in subject if state.subject.get(key) != subject[key]]
        if not differ and len(state.flags) != count:
            differ = ["number of images"]
        if differ:
            raise ValueError(f"state_path: {path} is of another {', '.join(differ)}; remove it or give another path")
        return state

    @classmethod
    def from_disk(cls, path: str | Path) -> EvaluationState:
        """Read a file. Raises FileNotFoundError, or ValueError for one that is damaged."""
        try:
            content = read_json(path, _Saved)
        except ValueError as error:
            raise ValueError(f"state_path: {error}, it does not hold the state of an evaluation") from error
        flags = torch.tensor(content.robust_flags, dtype=torch.bool)
        return cls(Path(path), content.subject, flags, content.run_attacks)

    def to_disk(self) -> None:
        content = {"subject": self.subject, "run_attacks": sorted(self.run_attacks)}
        write_json(self.path, content | {"robust_flags": self.flags.tolist()})

    @property
    def robust_flags(self) -> Tensor:
        """(N,) as ``robustbench.eval`` reads them: numbers, which have a mean."""
        return self.flags.float()


def _recorder(state: EvaluationState, left: Tensor) -> type:
    """pyautoattack's state of an evaluation of the images ``left``, which writes to ``state`` after each batch."""

    class Recorder(implementation_state.EvaluationState):
        def to_disk(self, force: bool = False) -> None:
            if self._robust_flags is not None:
                state.flags[left] = self._robust_flags.cpu()
            state.run_attacks |= self._run_attacks
            state.to_disk()

    return Recorder
