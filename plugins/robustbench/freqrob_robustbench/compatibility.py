"""Import RobustBench also where ``import robustbench`` fails, and warn about installations with changed files.

RobustBench 1.1.1 needs ``pkg_resources``, which setuptools 82 removed, and imports ``autoattack``, which is not on
PyPI, although its requirements install ``pyautoattack``.
"""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions, version
from importlib.util import find_spec
from math import nan
from pathlib import Path
from types import ModuleType
from typing import Any

from freqrob.runtime.warning import warn

WRITTEN_FOR, TIMM = "1.1.1", "timm 1.0.9"
NEEDS = ("robustbench", "timm", "huggingface_hub", "setuptools", "pyautoattack", "torch", "torchvision")


def import_robustbench() -> ModuleType:
    """Import the package ``robustbench``, with stand-ins for missing modules that it needs.

    Stand-ins are removed from ``sys.modules`` afterwards. ``benchmark`` then works for CIFAR's corruptions: the mCE is
    NaN, because AlexNet has no published results on them. Warns about files that are not RobustBench's, and about a
    huggingface_hub that timm cannot use.

    Raises ImportError, which says what to install, if it cannot be imported.
    """
    evaluation = sys.modules.get("robustbench.eval")
    if hasattr(getattr(evaluation, "corruptions_evaluation", None), "__wrapped__"):
        return sys.modules["robustbench"]
    try:
        distribution("robustbench")
    except PackageNotFoundError as error:
        raise ImportError("RobustBench is not installed: pip install 'freqrob[robustbench]'") from error
    if changes := changed_files():
        warn(changes)
    try:
        with _stand_ins():
            robustbench, evaluation = import_module("robustbench"), import_module("robustbench.eval")
        setattr(evaluation, "corruptions_evaluation", _without_alexnet(evaluation.corruptions_evaluation))  # noqa: B010
    except Exception as error:  # a broken installation raises anything: ImportError, RuntimeError, AttributeError, …
        raise ImportError(f"RobustBench cannot be used: {error}. {changes or _advice(str(error))}") from error
    _warn_of_unusable_hub()
    return robustbench


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put stand-ins for missing modules that RobustBench imports into ``sys.modules``."""
    added: dict[str, ModuleType] = {}
    if _missing("pkg_resources"):
        added["pkg_resources"] = _pkg_resources()
    if _missing("autoattack"):
        added["autoattack"] = adapter = import_module("freqrob_robustbench.autoattack")
        added["autoattack.state"] = state = ModuleType("autoattack.state")
        setattr(state, "EvaluationState", adapter.EvaluationState)  # noqa: B010
    before = {name: sys.modules[name] for name in added if name in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
        sys.modules.update(before)


def _missing(name: str) -> bool:
    try:
        return find_spec(name) is None
    except (ImportError, ValueError):
        return True


def _pkg_resources() -> ModuleType:
    """A stand-in with the function that ``robustbench.loaders`` uses: the path of a file in a module's folder."""
    module = ModuleType("pkg_resources")

    def resource_filename(name: str, path: str) -> str:
        return str(Path(sys.modules[name].__file__ or "").parent / path)

    setattr(module, "resource_filename", resource_filename)  # noqa: B010
    return module


def _advice(problem: str) -> str:
    if "torchvision::nms" in problem:
        remedy = "torch and torchvision are different builds (CPU, CUDA): install both from the same index"
    else:
        remedy = "pip install 'freqrob[robustbench]' installs compatible versions"
    return f"{remedy}. Here: {', '.join(filter(None, map(_installed, NEEDS)))}"


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def changed_files() -> str:
    """Describe files in ``robustbench/`` that differ from its wheel, with the package that wrote them and the remedy.

    "" if there are none. torchattacks, for example, overwrites 25 of them with older copies.
    """
    robustbench = distribution("robustbench")
    changed = _changed_files(robustbench)
    if not changed:
        return ""
    owners = [
        other
        for other in distributions()
        if other.name != robustbench.name and set(changed) & {str(file) for file in other.files or ()}
    ]
    by = "".join(f", overwritten by {owner.name} {owner.version}" for owner in owners)
    examples = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
    remove = "".join(f"pip uninstall {owner.name}; " for owner in owners)
    return (
        f"{len(changed)} files of {robustbench.locate_file('robustbench')} are not those of RobustBench "
        f"{robustbench.version}{by} ({examples}): its numbers may not be RobustBench's. To repair it: "
        f"{remove}pip install --force-reinstall --no-deps robustbench=={robustbench.version}"
    )


def _changed_files(package: Distribution) -> list[str]:
    """Modules that are missing, or whose hash is not that of the wheel's RECORD."""
    # Not by Distribution.files, which leaves out missing files since Python 3.12.
    rows = csv.reader((package.read_text("RECORD") or "").splitlines())
    expected = {path: digest for path, digest, _ in rows if path.startswith("robustbench/") and path.endswith(".py")}
    return [
        path
        for path, digest in expected.items()
        if digest and digest != _file_hash(Path(str(package.locate_file(path))))
    ]


def _file_hash(path: Path) -> str:
    """SHA-256 as RECORD writes it, URL-safe base64 without padding; empty if there is no such file."""
    if not path.is_file():
        return ""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()


def _warn_of_unusable_hub() -> None:
    """Warn if timm could not import what it needs from huggingface_hub; only a private module of timm shows this.

    Remove this when RobustBench (1.1.1 needs timm 1.0.9) accepts a timm that supports huggingface_hub 2.
    """
    hub, timm = map(_installed, ("huggingface_hub", "timm"))
    if timm == TIMM and not hub.startswith("no ") and not import_module("timm.models._hub").has_hf_hub():
        warn(
            f"{timm} cannot use {hub}, so models whose weights are on Hugging Face do not load "
            "(RobustBench's ImageNet models of timm): pip install 'huggingface_hub<2'"
        )


def _without_alexnet(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """``robustbench.eval.corruptions_evaluation`` with NaN for the mCE, its last step, which fails on CIFAR.

    Everything else is computed and written before that step; the accuracy is then a local variable, which only the
    traceback gives access to. Remove this when RobustBench returns an accuracy without AlexNet's results.
    """

    @functools.wraps(evaluate)
    def wrapped(*arguments: Any, **options: Any) -> tuple[float, float]:
        try:
            return evaluate(*arguments, **options)
        except KeyError as error:
            inner = error.__traceback__ and error.__traceback__.tb_next
            if error.args != ("AlexNet",) or inner is None or version("robustbench") != WRITTEN_FOR:
                raise
            return inner.tb_frame.f_locals["adv_accuracy"], nan

    return wrapped
