"""What a notebook's user sees: tables, bars, axes, and no numbers of a class that was edited since."""

import json
import linecache
import sys
import textwrap
from html.parser import HTMLParser
from types import ModuleType

import pytest
import torch
from matplotlib.figure import Figure

import freqrob
from freqrob.attacks import FGSM, Clean
from freqrob.diagnostics import diagnose
from freqrob.diagnostics.run import Diagnosis
from freqrob.evaluation import Results, evaluate
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.report import plots
from freqrob.reproduction.experiment import Number
from freqrob.reproduction.records import Row
from freqrob.reproduction.run import Reproduction
from freqrob.runtime import progress
from freqrob.runtime.html import html_table

HOSTILE = '<script>alert("x")</script>'


class Cells(HTMLParser):
    """The texts of a table's rows, and every tag."""

    def __init__(self, markup):
        super().__init__()
        self.rows, self.tags = [], set()
        self.feed(markup)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


@pytest.fixture
def typed(monkeypatch):
    """Runs cells as IPython does: in ``__main__``, each with a file name of its own that linecache knows."""
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    count = 0

    def run(cell):
        nonlocal count
        count += 1
        source, name = textwrap.dedent(cell), f"<ipython-input-{count}-0123456789ab>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), vars(main))
        return main

    return run


CELL = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3072, 10)
    def forward(self, images):
        return {sign}self.linear(images.flatten(1))
model = Net().eval()
"""


def test_an_edited_class_is_measured_again(typed, few, tmp_path):
    def measured(sign):
        model = typed(CELL.format(sign=sign)).model
        with pytest.warns(UserWarning, match="nothing is cached.*__main__.Net"):
            (result,) = evaluate(
                model, few.images, few.labels, protocols=["natural"], attacks=[Clean()], cache=tmp_path
            )
        with pytest.warns(UserWarning, match="nothing is cached.*__main__.Net"):
            gradients = diagnose(model, few.images, few.labels, only=["jacobian"], cache=tmp_path)["jacobian"]
        assert not result.from_cache
        expected = model(few.images / 255).argmax(1) == few.labels
        assert torch.equal(result.correct, expected)
        return gradients

    first, second = measured(""), measured("(images * 3).mean() * ")
    assert not torch.equal(first.amplitude, second.amplitude)


def test_a_method_that_a_cell_replaces_in_an_installed_class_is_noticed(typed, few, tmp_path, monkeypatch):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()
    given = {"protocols": ["natural"], "attacks": [Clean()], "cache": tmp_path}
    evaluate(model, few.images, few.labels, **given)
    cell = "def forward(self, images):\n    return -torch.nn.functional.linear(images, self.weight, self.bias)\n"
    monkeypatch.setattr(torch.nn.Linear, "forward", typed("import torch\n" + cell).forward)
    with pytest.warns(UserWarning, match=r"nothing is cached.*Linear.forward was replaced"):
        (result,) = evaluate(model, few.images, few.labels, **given)
    assert torch.equal(result.correct, model(few.images / 255).argmax(1) == few.labels)


def test_tables_escape_every_text():
    markup = html_table([HOSTILE], [[HOSTILE, HOSTILE]], HOSTILE)
    cells = Cells(markup)
    assert cells.tags == {"table", "caption", "tr", "th", "td"}
    assert cells.rows == [[HOSTILE], [HOSTILE, HOSTILE]]


def test_results_are_a_table(few):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()
    results = freqrob.evaluate(model, few.images, few.labels, protocols=["natural"], attacks=[Clean(), FGSM()])
    assert isinstance(results, Results) and isinstance(results, list)
    _, clean, fgsm = Cells(results._repr_html_()).rows
    share = f"{100 * results[0].accuracy:.1f}"
    assert clean[:7] == ["natural", "clean", "", "", "6", "0", share]
    assert fgsm[:6] == ["natural", "FGSM", "Linf", "8/255", "6", "0"]
    assert " to " in clean[7]


def test_a_diagnosis_is_a_table(few):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()
    diagnosis = freqrob.diagnose(model, few.images, few.labels, only=["jacobian", "sensitivity"])
    assert isinstance(diagnosis, Diagnosis)
    rows = Cells(diagnosis._repr_html_()).rows[1:]
    assert {row[0] for row in rows} == {"jacobian", "sensitivity"} and all(map(all, rows))
    measured = diagnosis["jacobian"]
    fields = {row[0]: row[1:] for row in Cells(measured._repr_html_()).rows[1:]}
    assert fields["amplitude"][0] == "float32 (32, 17)" or fields["amplitude"][0].endswith("(32, 17)")
    assert fields["images"] == ["6", ""] and fields["log_b_low"] == [f"{measured.log_b_low:.6g}", ""]


def test_accuracies_on_corruptions_are_a_table():
    accuracy = CorruptionAccuracy("cifar10", HOSTILE, 10, None, True, {"fog": (0.5, 0.4, 0.3, 0.2, 0.1)}, {"fog": 0.01})
    cells = Cells(accuracy._repr_html_())
    assert "script" not in cells.tags
    assert cells.rows[1:] == [["all", "30.0", ""], ["fog", "30.0", "1.0"]]


def test_a_reproduction_is_two_tables():
    rows = {HOSTILE: Row(HOSTILE, numbers={"clean": Number(61.25)}), "b": Row("b", missing="no data")}
    claims = [{"claim": HOSTILE, "where": "", "criterion": "", "verdict": "holds", "evidence": "1 > 0"}]
    cells = Cells(Reproduction(rows, claims, [])._repr_html_())
    assert "script" not in cells.tags
    assert cells.rows == [
        ["", "clean", "missing"], [HOSTILE, "61.25", ""], ["b", "", "no data"],
        ["claim", "verdict", "numbers"], [HOSTILE, "holds", "1 > 0"],
    ]  # fmt: skip


def test_functions_that_draw_return_the_axes():
    axes = Figure().subplots()
    assert plots.plot_power(axes, {}) is axes


def test_a_bar_passes_every_item_on(capsys):
    assert list(progress.progress_bar([1, 2], "<counting>", 3)) == [1, 2]
    assert capsys.readouterr().out == ""
    outer = [list(progress.progress_bar("ab", "inner", 2)) for _ in progress.progress_bar([1], "outer", 1)]
    assert outer == [["a", "b"]]


def test_a_bar_in_a_cell(monkeypatch):
    shown = []
    display = ModuleType("IPython.display")
    handle = type("Handle", (), {"update": lambda _, html: shown.append(html)})()
    display.HTML = str
    display.display = lambda html, display_id: (shown.append(html), handle)[1]
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr(progress, "REFRESH", -1)
    assert list(progress.progress_bar([1, 2], "a < b", 4)) == [1, 2]
    values = [text[: text.index("</")] for text in shown]
    assert values == [f'<progress value="{done}" max="4">' for done in (2, 3, 4, 4)]
    assert "a &lt; b 4/4" in shown[-1]


@pytest.mark.slow
def test_a_notebook_runs(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [
        "import freqrob\nfrom freqrob.data.samples import sample_images\n"
        "from freqrob.runtime.progress import progress_bar\n"
        "samples, model = sample_images(), freqrob.load_model('standard_rn20')",
        "freqrob.evaluate(model, samples.images, samples.labels, protocols=['natural'], progress=progress_bar)",
        "freqrob.diagnose(model, samples.images, samples.labels, only=['jacobian'], progress=progress_bar)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    _, evaluated, diagnosed = notebook.cells
    for cell, text in ((evaluated, "PGD-20"), (diagnosed, "jacobian")):
        bar, *_, table = (output["data"]["text/html"] for output in cell.outputs if "data" in output)
        assert bar.startswith("<progress") and text in table, json.dumps(cell.outputs)
