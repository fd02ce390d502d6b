"""Fixtures of the tests of spectra."""

import hashlib
import importlib.util
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from freqrob.spectral import build


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small work on a busy machine waits for its threads rather than for its results."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def compile_module(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModuleType]:
    """Compile a file of csrc/testing to a module of pybind11; pytest's cache keeps it until a source changes."""
    pybind11 = pytest.importorskip("pybind11")
    cache = getattr(pytestconfig, "cache", None)  # none under -p no:cacheprovider
    folder = cache.mkdir("freqrob-modules") if cache else tmp_path_factory.mktemp("modules")

    def compile_module(name: str, file: str, *arguments: str) -> ModuleType:
        source = build.source_folder() / "testing" / file
        command = [*shlex.split(os.environ.get("CXX", "c++")), "-std=c++20", "-O1", "-shared", "-fPIC"]
        command += [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}", str(source), *arguments]
        key = hashlib.sha256(repr((command, pybind11.__version__)).encode())
        for path in sorted(build.source_folder().rglob("*.*")):
            key.update(path.read_bytes())
        module = folder / f"{name}-{key.hexdigest()[:20]}.so"
        if not module.exists():
            temporary = module.with_suffix(f".{os.getpid()}")
            try:
                subprocess.run([*command, "-o", str(temporary)], check=True)
            except FileNotFoundError:
                pytest.skip("no C++ compiler")
            temporary.replace(module)
        return load_module(name, module)

    return compile_module


def load_module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
