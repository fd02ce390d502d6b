"""Warn of public names that the reference does not have; ``make docs`` turns warnings into errors."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import freqrob

logger = logging.getLogger(__name__)


def public_names() -> Iterator[str]:
    """The names in ``__all__`` of freqrob and of its packages, with the package in front."""
    packages = [name for _, name, is_package in pkgutil.iter_modules(freqrob.__path__, "freqrob.") if is_package]
    for package in ["freqrob", *packages]:
        for name in getattr(import_module(package), "__all__", ()):
            yield f"{package}.{name}"


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Compare the names with the objects that the pages describe."""
    documented = env.domains["py"].objects
    for name in public_names():
        if name not in documented and name != "freqrob.__version__":
            logger.warning("reference: %s is public, but no page documents it; add it in docs/reference/", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
