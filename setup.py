"""Packages that lie outside `freqrob/`, and the native library when FREQROB_AOT=1 asks for it ahead of time.

Everything else is in pyproject.toml. A plain build needs no torch and gives a pure wheel that carries the C++ sources.
"""

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent.resolve()


def packages() -> dict[str, str]:
    """Import name → folder, for every package of the distribution."""
    found = {name: name.replace(".", "/") for name in find_packages(str(ROOT), include=["freqrob", "freqrob.*"])}
    if (ROOT / "csrc").exists():
        found["freqrob.csrc"] = "csrc"
    for plugin in ("robustbench", "foolbox"):
        name = f"freqrob_{plugin}"
        for folder in (f"plugins/{plugin}/{name}", f"plugins/{plugin}"):
            if (ROOT / folder / "__init__.py").exists():
                found[name] = folder
                break
        if name in found:
            inner = find_packages(str(ROOT / found[name]), exclude=["tests", "tests.*"])
            found |= {f"{name}.{sub}": f"{found[name]}/{sub.replace('.', '/')}" for sub in inner}
    return found


def ahead_of_time() -> dict:
    """setup() arguments that build the native library with the parameters of the build on first use."""
    if importlib.util.find_spec("torch") is None:
        sys.exit("FREQROB_AOT=1 needs torch: pip's --no-build-isolation, or --no-isolation of python -m build")
    spec = importlib.util.spec_from_file_location("_freqrob_build", ROOT / "freqrob/spectral/build.py")
    build = sys.modules["_freqrob_build"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    toolkit, _ = build.usable_toolkit("require")
    parameters = build.build_parameters(toolkit)
    if toolkit:
        os.environ["CUDA_HOME"] = toolkit.path  # read when torch's builder is imported

    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    class Build(BuildExtension):
        def run(self) -> None:
            super().run()
            library = Path(self.get_ext_fullpath("freqrob._native"))
            record = {
                "sources": build.source_digest(),
                "cuda": torch.version.cuda if parameters.cuda else None,
                "sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
            }
            (library.parent / "_native.json").write_text(json.dumps(record))

    kind = CUDAExtension if parameters.cuda else CppExtension
    extension = kind(
        "freqrob._native",
        sources=[os.path.relpath(source, ROOT) for source in parameters.sources],
        include_dirs=list(parameters.include),
        extra_compile_args={"cxx": list(parameters.cflags), "nvcc": list(parameters.cuda_flags)},
        extra_link_args=list(parameters.ldflags),
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": Build.with_options(no_python_abi_suffix=True)},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


folders = packages()
setup(
    packages=sorted(folders),
    package_dir=folders,
    package_data={
        "freqrob": ["py.typed", "schemas/*.json"],
        "freqrob.data": ["*.png", "*.txt"],
        "freqrob.models": ["weights/**/*.safetensors", "weights/**/*.json"],
        "freqrob.report": ["*.html", "templates/*"],
        "freqrob.csrc": ["*.cpp", "*.h", "**/*.cpp", "**/*.h", "**/*.cu", "**/*.cuh"],
        **{name: ["py.typed"] for name in folders if name.startswith("freqrob_") and "." not in name},
    },
    include_package_data=False,
    **(ahead_of_time() if os.environ.get("FREQROB_AOT") == "1" else {}),
)
