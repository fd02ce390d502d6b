"""The curves of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from freqrob.runtime.figures import import_matplotlib, save_figure

LABELS = {"val_clean": "clean", "val_pgd10": "PGD-10"}


def draw_curves(history: Sequence[Mapping[str, float]], path: Path, title: str = "") -> None:
    """Draw loss and validation accuracies by epoch into a PNG, which replaces an earlier one when it is complete."""
    import_matplotlib()
    from matplotlib.figure import Figure  # half a second that `import freqrob` must not cost

    figure = Figure(figsize=(8, 3), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in history]
    loss.plot(epochs, [line["loss"] for line in history], "o-", markersize=3, color="#0072b2")
    loss.set(xlabel="epoch", ylabel="training loss")
    for (key, label), colour in zip(LABELS.items(), ("#0072b2", "#d55e00"), strict=True):
        if key in history[0]:
            accuracy.plot(epochs, [100 * line[key] for line in history], "o-", markersize=3, color=colour, label=label)
    best = max(history, key=lambda line: (line["selection"], line["epoch"]))
    accuracy.axvline(best["epoch"], color="0.7", linewidth=1, zorder=0, label=f"kept: epoch {best['epoch']:g}")
    accuracy.set(xlabel="epoch", ylabel="validation accuracy (%)")
    accuracy.legend(frameon=False, fontsize="small")
    for axes in (loss, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.suptitle(title, fontsize="medium")
    save_figure(figure, path, dpi=120)
