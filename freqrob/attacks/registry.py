"""Attacks by name, such as "pgd-50-10" and "autoattack"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain

from freqrob.attacks.balls import RADII, Norm, check_radius
from freqrob.attacks.base import Attack
from freqrob.runtime.parameters import checked, nearest_names, shown
from freqrob.runtime.registry import Registry

COUNT = re.compile("[0-9]{1,9}")
ATTACKS: Registry[type[Attack]] = Registry(
    "attack", "freqrob.attacks", lambda value: isinstance(value, type) and issubclass(value, Attack), "an Attack class"
)

register_attack = ATTACKS.register


@checked
def list_attacks(pattern: str = "*") -> list[str]:
    """Names of registered attacks, including those of other packages, that match a pattern such as ``"*pgd*"``.

    >>> list_attacks("*pgd*")
    ['band_pgd', 'pgd']
    """
    return ATTACKS.matching(pattern)


def attack_examples(imported: str = "") -> str:
    """Examples of attack names, for messages and ``--help``.

    Other packages' attacks are included only if ``imported``.
    """
    foreign = set(ATTACKS.foreign()) - {imported}
    examples = ((name,) if name in foreign else ATTACKS[name].examples or (name,) for name in ATTACKS)
    return ", ".join(chain.from_iterable(examples))


@dataclass(frozen=True)
class Name:
    """A parsed attack name: "pgd-50-10:cw" has the kind "pgd", the counts (50, 10) and the options ("cw",).

    Attributes:
        text: the unparsed name.
        kind: the registered name.
        counts: numbers after dashes.
        words: words after dashes; they follow the counts.
        options: words after a colon, separated by "," or ":".
    """

    text: str
    kind: str
    counts: tuple[int, ...]
    words: tuple[str, ...]
    options: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Name:
        head, colon, tail = text.strip().lower().partition(":")
        kind, *parts = head.split("-")
        counts = tuple(int(part) for part in parts if COUNT.fullmatch(part))
        return cls(text, kind, counts, tuple(parts[len(counts) :]), tuple(re.split("[,:]", tail)) if colon else ())

    @property
    def is_bare(self) -> bool:
        """Whether the name is the kind alone."""
        return not (self.counts or self.words or self.options)

    @property
    def error(self) -> ValueError:
        """The error for a name that the attack cannot parse."""
        counted = re.fullmatch(r"([a-z_]+?)_?(\d+)", self.kind)
        if counted and counted[1] in ATTACKS:
            hint = f" Nearest: {counted[1]}-{counted[2]}."
        else:
            hint = "" if self.kind in ATTACKS else nearest_names(self.kind, ATTACKS)
        expected = f"expected one such as {attack_examples(self.kind)}{hint and '.' + hint}"
        return ValueError(f"attack: got {shown(self.text)}, {expected}")


@checked
def parse_attack(text: str, *, eps: float | None = None, norm: Norm = "Linf", step_size: float | None = None) -> Attack:
    """Create an attack by name: ``"pgd-50-10"`` is PGD with 50 steps and 10 restarts, ``"square-1000"`` 1,000 queries.

    Args:
        text: a name of ``list_attacks`` with options: clean, fgsm, pgd-STEPS[-RESTARTS][:LOSS][:targeted],
            autoattack[-rand|-plus], autoattack:ATTACK,…, square[-QUERIES], …, with counts of at most 9 digits.
        eps, norm: the ball; eps is 8/255 in L∞ and 0.5 in L2 unless given.
        step_size: of PGD; eps/4 unless given.

    Raises:
        ValueError: an unknown name, or parameters that the attack does not take.
        ImportError: the package of the attack cannot be imported.

    >>> parse_attack("pgd-50-10").restarts
    10
    >>> parse_attack("clean").name
    'clean'
    """
    eps = RADII[norm] if eps is None else eps
    check_radius(norm, eps=eps)
    if step_size is not None:
        check_radius(norm, step_size=step_size)
    name = Name.read(text)
    if name.kind not in ATTACKS:
        raise name.error
    return ATTACKS[name.kind].parse(name, eps=eps, norm=norm, step_size=step_size)
