"""Attacks as people write them on a command line."""

from __future__ import annotations

import re

from freqrob.attacks import Norm, check_norm, check_radius
from freqrob.evaluation.attacks import FGSM, PGD, RADII, Attack, Clean
from freqrob.evaluation.autoattack import QUERIES, VERSIONS, AutoAttack, Square
from freqrob.parameters import checked, shown

FORMS = (
    "clean, fgsm, pgd-20, pgd-50-10, autoattack, autoattack-rand, autoattack-plus, autoattack:apgd-ce,square, square"
)
COUNT = re.compile("[0-9]{1,9}")


@checked
def parse_attack(text: str, *, eps: float | None = None, norm: Norm = "Linf", step_size: float | None = None) -> Attack:
    """An attack from its name: ``"pgd-50-10"`` is PGD with 50 steps and 10 restarts, ``"square-1000"`` 1,000 queries.

    Args:
        text: clean, fgsm, pgd-STEPS[-RESTARTS], autoattack[-rand|-plus], autoattack:ATTACK,…, or square[-QUERIES], with
            counts of at most 9 digits.
        eps, norm: the ball; eps is 8/255 in L∞ and 0.5 in L2 unless given.
        step_size: of PGD; eps/4 unless given.

    Raises ValueError for another text, or parameters that the attack does not take.
    """
    check_norm(norm)
    eps = RADII[norm] if eps is None else eps
    check_radius(norm, eps=eps)
    if step_size is not None:
        check_radius(norm, step_size=step_size)
    name, colon, components = text.strip().lower().partition(":")
    kind, *more = name.split("-")
    counts = [int(number) for number in more if COUNT.fullmatch(number)]
    match kind, len(counts), more[len(counts) :] + (components.split(",") if colon else []):
        case "clean", 0, []:
            return Clean()
        case "fgsm", 0, []:
            return FGSM(eps, norm)
        case "pgd", 1 | 2, []:
            return PGD(counts[0], eps, step_size, *counts[1:], norm=norm)
        case "square", 0 | 1, []:
            return Square(*(counts or [QUERIES]), eps=eps, norm=norm)
        case "autoattack", 0, []:
            return AutoAttack("standard", (), eps, norm)
        case "autoattack", 0, [version] if not colon and version in VERSIONS:
            return AutoAttack(version, (), eps, norm)
        case "autoattack", 0, chosen if not more:
            return AutoAttack("custom", tuple(chosen), eps, norm)
    raise ValueError(f"attack: got {shown(text)}, expected one such as {FORMS}")
