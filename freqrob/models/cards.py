"""Cards: the JSON beside a checkpoint that says what it is, how it was made and what was measured."""

import json
import operator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


class CheckpointError(ValueError):
    """A checkpoint or its card cannot be used; the message names the file and what was expected."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint is.

    ``front_ends`` lists the modules before the network from the input on, each ``{"name": ..., **parameters}``;
    ``results`` lists measurements (protocol, attack, images, seed, accuracy, ...); ``recipe`` is everything that
    determines the training run; ``sha256`` is that of the weights file. ``url``, or ``hf_repo`` with
    ``hf_file`` and ``hf_revision``, says where the weights can be downloaded.
    """

    name: str
    architecture: str
    dataset: str = "cifar10"
    threat_model: str = "Linf"
    num_classes: int = 10
    front_ends: list[dict[str, Any]] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    sha256: str = ""
    created: str = ""
    url: str = ""
    hf_repo: str = ""
    hf_file: str = ""
    hf_revision: str = "main"

    def to_json(self) -> str:
        """Indented JSON; ``Card.from_json`` reads it back to an equal card."""
        return json.dumps(asdict(self), indent=2, default=operator.index) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str | Path = "card") -> "Card":
        """Read a card; unknown keys are ignored, so that older versions read newer cards.

        Raises CheckpointError, which names ``source``, for malformed JSON, a missing key or a wrong type.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{source}: not valid JSON ({error})") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{source}: expected a JSON object, got {type(values).__name__}")
        missing = [key for key in ("name", "architecture") if key not in values]
        if missing:
            raise CheckpointError(f"{source}: the card lacks {', '.join(missing)}")
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for key, value in known.items():
            expected = _JSON_TYPES.get(key, str)
            if type(value) is not expected:
                raise CheckpointError(f"{source}: {key} is {value!r}, expected {expected.__name__}")
        return cls(**known)

    @classmethod
    def read(cls, path: str | Path) -> "Card":
        """``from_json`` of a file. Raises FileNotFoundError, or CheckpointError for a malformed card."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: not a UTF-8 text file") from error
        return cls.from_json(text, source=path)


_JSON_TYPES = {"num_classes": int, "front_ends": list, "recipe": dict, "results": list, "versions": dict}
