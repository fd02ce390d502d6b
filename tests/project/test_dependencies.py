"""What is said about dependencies and versions in several places is the same in all of them."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import freqrob
from freqrob.runtime.provenance import versions
from tests.project.all_pythons import supported

ROOT = Path(__file__).resolve().parents[2]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # names of the same packages there


def dependencies() -> dict[str, SpecifierSet]:
    """Of pyproject.toml; Python 3.10 has no tomllib."""
    text = (ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    requirements = map(Requirement, re.findall(r'"(.+?)"', listed))
    return {requirement.name: requirement.specifier for requirement in requirements}


def lower(bounds: SpecifierSet) -> str:
    (bound,) = (bound.version for bound in bounds if bound.operator == ">=")
    return bound


def workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github/workflows" / f"{name}.yml").read_text())


def test_the_oldest_versions_are_the_lower_bounds():
    lines = (ROOT / "tests/oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    bounds = {name: lower(specifier) for name, specifier in dependencies().items()}
    assert pinned.keys() == bounds.keys()
    for name, pin in pinned.items():
        assert pin == bounds[name] or pin == f"{bounds[name]}.0", name


@pytest.mark.parametrize("name", dependencies())
def test_the_installed_version_is_within_the_bounds(name):
    assert dependencies()[name].contains(version(name), prereleases=True)


def test_the_conda_environment_has_the_bounds_of_pyproject():
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = content["dependencies"]
    listed = [Requirement(line) for line in (*conda, *pip["pip"]) if line != "."]
    found = {requirement.name: requirement.specifier for requirement in listed}
    expected = {CONDA.get(name, name): bounds for name, bounds in dependencies().items()}
    assert {name: found.get(name) for name in expected} == expected
    oldest, *_, newest = supported()
    assert found.keys() - expected.keys() == {"python", "pip", "cxx-compiler"}
    assert found["python"].contains(f"{newest}.9") and lower(found["python"]) == oldest
    assert content["channels"] == ["conda-forge"] and pip["pip"][-1] == "."


def test_the_version_is_in_one_place():
    assert versions()["freqrob"] == freqrob.__version__
    number = re.escape(freqrob.__version__)
    files = ("pyproject.toml", "setup.py", "CITATION.cff", "docs/conf.py", "README.md")
    assert [name for name in files if re.search(number, (ROOT / name).read_text())] == []
    base = freqrob.__version__.partition(".dev")[0]
    heading = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert heading.startswith(f"## {base} ")
    assert ("unreleased" in heading) == (".dev" in freqrob.__version__)


def test_the_forge_tests_every_supported_python():
    jobs = workflow("ci")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == supported()
    targets = {*jobs["check"]["strategy"]["matrix"]["target"], "test", "test-oldest"}
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets <= rules
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert runs == ["make test", "make test-oldest", 'make "$TARGET"']


@pytest.mark.parametrize("name", ["ci", "release"])
def test_workflows_pin_actions_and_may_only_read(name):
    content = workflow(name)
    assert content["permissions"] == {"contents": "read"}
    steps = [step for job in content["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)
    allowed = [job["permissions"] for job in content["jobs"].values() if "permissions" in job]
    assert allowed == ([{"id-token": "write"}] if name == "release" else [])


@pytest.mark.parametrize("schema, files", [
    ("github-workflows", ".github/workflows/*.yml"), ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
    ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"), ("dependabot", ".github/dependabot.yml"),
    ("citation-file-format", "CITATION.cff"),
])  # fmt: skip
def test_files_for_the_forge_are_valid(schema, files):
    pytest.importorskip("check_jsonschema")
    paths = sorted(ROOT.glob(files))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", "-o", "json", *paths]
    run = subprocess.run(command, capture_output=True, text=True)
    assert paths and run.returncode == 0, run.stdout
    assert json.loads(run.stdout)["status"] == "ok"
