"""The package ``autoattack`` as RobustBench uses it, over ``pyautoattack``; with a state that evaluations go on from.

It differs in its arguments' names, and returns one tensor where pyautoattack returns two. ``pyautoattack`` writes the
sets in its state as text, which it cannot read back.

Source: the interface of https://github.com/fra31/auto-attack.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pyautoattack
import torch
from pyautoattack import autoattack as implementation
from pyautoattack import state as implementation_state
from torch import Tensor, nn

from freqrob.evaluation.samples import data_hash, model_hash
from freqrob.files import write_json


class AutoAttack(pyautoattack.AutoAttack):
    """AutoAttack with the arguments of the authors' package.

    ``device`` is the model's unless given. With ``verbose`` each step is printed; ``log_path`` keeps the same lines.
    Raises ValueError for a custom version without attacks, and for attacks with another version.
    """

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
        if version == "custom" and not attacks_to_run:
            raise ValueError("attacks_to_run: expected the attacks of the custom version, got none")
        attacks = list(attacks_to_run) or None
        device = device or _device_of(model)
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

        A run with ``state_path`` that was stopped goes on where it was; then only the images that this call broke are
        changed. Raises ValueError for a state of another model, other images or another attack.
        """
        state = EvaluationState
        if state_path is not None:
            state_path = Path(state_path)
            subject = {"model": model_hash(self.model), "data": data_hash(x_orig, y_orig)}
            subject |= {"norm": self.norm, "eps": self.epsilon, "version": self.version}
            state = type("EvaluationState", (EvaluationState,), {"subject": subject})
        with patch.object(implementation, "EvaluationState", state), self._logging():
            x_adv, y_adv = super().run_standard_evaluation(x_orig, y_orig, batch_size=bs, state_path=state_path)
        return (x_adv, y_adv) if return_labels else x_adv

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


def _device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


class EvaluationState(implementation_state.EvaluationState):
    """What is done, in a JSON file that is read back; ``subject`` says of which model, images and attack."""

    subject: ClassVar[dict[str, Any]] = {}

    def to_disk(self, force: bool = False) -> None:
        """Write the whole file anew: rarely more than once a batch, and small. ``force`` is not needed."""
        if self.path is not None:
            flags = None if self._robust_flags is None else self._robust_flags.tolist()
            content = {"subject": self.subject, "attacks_to_run": sorted(self._attacks_to_run)}
            content |= {"run_attacks": sorted(self._run_attacks), "robust_flags": flags}
            write_json(self.path, content | {"clean_accuracy": None if flags is None else self._clean_accuracy})

    @classmethod
    def from_disk(cls, path: Path) -> EvaluationState:
        """Read a state. Raises ValueError for a file that is damaged or of another ``subject``."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            subject, flags, clean = content["subject"], content["robust_flags"], content["clean_accuracy"]
            state = cls(set(content["attacks_to_run"]), path=Path(path), _run_attacks=set(content["run_attacks"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"state_path: {path} holds no state of an evaluation; remove it to start anew") from error
        differ = [key for key in cls.subject if subject.get(key) != cls.subject[key]]
        if differ:
            raise ValueError(f"state_path: {path} is of another {', '.join(differ)}; remove it or give another path")
        if flags is not None:
            state._robust_flags, state._clean_accuracy = torch.tensor(flags, dtype=torch.bool), clean
        return state


class FinalState(EvaluationState):
    """The state as ``robustbench.eval`` reads it at the end: flags that have a mean."""

    @property
    def robust_flags(self) -> Tensor:
        return self._robust_flags.float()
