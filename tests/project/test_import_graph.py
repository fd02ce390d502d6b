"""Who imports whom: rooms import from earlier rooms alone, no modules in a circle, and freqrob none of its plug-ins."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "freqrob": ROOT / "freqrob",
    "freqrob_foolbox": ROOT / "plugins/foolbox/freqrob_foolbox",
    "freqrob_robustbench": ROOT / "plugins/robustbench/freqrob_robustbench",
}
# From the first to the last.
ROOMS = (
    "runtime", "spectral", "data", "models", "attacks", "defenses", "training", "evaluation", "diagnostics", "report",
    "reproduction", "cli",
)  # fmt: skip
PLACED = {"freqrob.__main__": "cli", "freqrob.formats": "cli"}
FACADE = "freqrob"  # whose names are imported when they are first used


def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(node: ast.AST, *, for_types: bool = True) -> Iterator[str]:
    """The packages' modules that are imported anywhere in ``node``; with or without what only type checkers import."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types:
        return
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names if one.name in MODULES)
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are absolute"
        names = (f"{node.module}.{one.name}" for one in node.names)
        yield from (name if name in MODULES else node.module for name in names if {name, node.module} & MODULES.keys())
    for child in ast.iter_child_nodes(node):
        yield from imports(child, for_types=for_types)


def graph(**options: bool) -> dict[str, set[str]]:
    trees = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
    return {name: set(imports(tree, **options)) - {name} for name, tree in trees.items()}


def arrows() -> set[tuple[str, str]]:
    """From and to, of every import but those of the façade and of ``freqrob.__version__``."""
    found = {(name, other) for name, others in graph().items() for other in others}
    return {arrow for arrow in found if FACADE not in arrow}


def room(module: str) -> int:
    """The number of a module's room; plug-ins come after all rooms."""
    package, _, rest = module.partition(".")
    first = PLACED.get(module, rest.partition(".")[0])
    return ROOMS.index(first) if package == "freqrob" else len(ROOMS)


def test_rooms_import_from_earlier_rooms_and_nothing_from_a_plugin():
    assert len(MODULES) > 100 and len(arrows()) > 300
    upwards = {(name, other) for name, other in arrows() if room(other) > room(name)}
    assert upwards == set()


def test_plugins_do_not_know_each_other():
    packages = {(name.partition(".")[0], other.partition(".")[0]) for name, other in arrows()}
    assert {(one, other) for one, other in packages if one != other and "freqrob" not in (one, other)} == set()


def test_no_modules_import_each_other_in_a_circle():
    """Not in functions either, where Python would bear it."""
    try:
        TopologicalSorter(graph(for_types=False)).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_what_the_graph_is_made_of():
    code = """
from freqrob import __version__, training
from freqrob.spectral.balance import bass
if TYPE_CHECKING:
    import freqrob.data.samples
def late():
    import torch, freqrob.report
    from freqrob_foolbox.problem import FoolboxProblem
"""
    late = {"freqrob", "freqrob.training", "freqrob.spectral.balance", "freqrob.report", "freqrob_foolbox.problem"}
    assert set(imports(ast.parse(code), for_types=False)) == late
    assert set(imports(ast.parse(code))) == late | {"freqrob.data.samples"}
