"""Cards: the JSON file of a checkpoint, with its architecture, training recipe and results."""

import json
import operator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.reading import Count, Label, Share, read_bytes


class CheckpointError(ValueError):
    """A checkpoint or its card cannot be used; the message names the file and the expected content."""


class CardResult(Struct):
    """The types of a result on a card; all fields may be missing."""

    protocol: Label = ""
    attack: Label = ""
    images: Count = 1
    accuracy: Share = 0.0
    seed: int = 0
    norm: Label = "Linf"
    eps: Annotated[float, Meta(ge=0)] = 0.0
    step_size: float | None = None


class CardFrontEnd(Struct):
    """A module before the network; the other keys are its parameters."""

    name: Label


@dataclass(frozen=True)
class Card:
    """The description of a checkpoint.

    ``front_ends`` lists the modules before the network, the first one first, each ``{"name": ..., **parameters}``;
    ``results`` lists measurements (protocol, attack, images, seed, accuracy, ...); ``recipe`` is everything that
    determines the training run; ``sha256`` is the hash of the weights file. ``url``, or ``hf_repo`` with ``hf_file``
    and ``hf_revision``, is the download location of the weights.
    """

    name: Label
    architecture: Label
    dataset: Label = "cifar10"
    threat_model: Label = "Linf"
    num_classes: Count = 10
    front_ends: list[dict[str, Any]] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    commit: Label = ""
    versions: dict[str, str] = field(default_factory=dict)
    sha256: Label = ""
    created: Label = ""
    url: str = ""
    hf_repo: str = ""
    hf_file: str = ""
    hf_revision: str = "main"

    def to_json(self) -> str:
        """Indented JSON; ``Card.from_json`` reads it back to an equal card."""
        return json.dumps(CARD.versioned(asdict(self)), indent=2, default=operator.index) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str | Path = "card") -> "Card":
        """Read a card; unknown keys are ignored, so that older versions read newer cards.

        Raises CheckpointError, which names ``source``, for malformed JSON, a missing key, a wrong type, or a format of
        a newer freqrob.
        """
        try:
            return CARD.decode(text.encode() if isinstance(text, str) else text, source)
        except ValueError as error:
            raise CheckpointError(str(error)) from error

    @classmethod
    def read(cls, path: str | Path) -> "Card":
        """``from_json`` of a file. Raises OSError (FileNotFoundError), or CheckpointError for a malformed card."""
        try:
            content = read_bytes(path)
        except ValueError as error:  # a folder, or far too long
            raise CheckpointError(str(error)) from error
        return cls.from_json(content, path)


CARD = FileFormat("card", Card, parts={"front_ends": list[CardFrontEnd], "results": list[CardResult]})
