"""
Reproduce a table of a paper
============================

freqrob has tables and figures of three papers as experiments: each knows its models, its measurement, the paper's own
numbers, and the paper's claims with a criterion for each. This tutorial lists them, runs a small one, and reads its
files.
"""

# %%
# What there is
# -------------
#
# On the command line, ``freqrob reproduce`` without a name prints this list, with what each experiment needs and what
# was measured already.

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from freqrob.reproduction import SCALES, Lab, get_experiment, list_experiments, reproduce

for name in list_experiments("lin2023:*"):
    experiment = get_experiment(name)
    print(f"{name:28} {experiment.where}: {experiment.title}")

# %%
# Run one
# -------
#
# Theorem 1 of Lin et al. (NeurIPS 2023) is about the spectral entropy H\ :sub:`k` of images whose power falls as a
# power law. Its experiment computes H\ :sub:`k` far out on both sides, so it needs no model and no data. A ``Lab`` says
# where data and models are and at which scale to measure: ``rn20``, where a small network stands for the paper's, or
# ``paper``.

folder = Path(tempfile.mkdtemp())
lab = Lab(SCALES["rn20"], data=folder / "data", model_dir=folder / "models")
theorem = reproduce(get_experiment("lin2023:theorem1"), lab, folder / "reproduction")
for row, measured in theorem.rows.items():
    print(row, {column: str(number) for column, number in measured.numbers.items()})

# %%
# Each claim is judged by the criterion beside it: it *holds*, *does not hold*, is *within noise*, or was *not
# measured*. The paper prints two limits of H_k: 0 for k → ∞, which is right, and ∞ for k → 0, which should be −∞.

for claim in theorem.claims:
    print(f"{claim['claim']}\n    {claim['criterion']}\n    -> {claim['verdict']}")

# %%
# The files
# ---------
#
# ``result.json`` has everything, with the commit, the machine and the settings of each row; ``table.md`` and
# ``table.csv`` have the numbers beside the paper's. An experiment that is a figure also draws ``figure.svg``, ``.png``
# and ``.pdf``.

for path in theorem.files:
    print(path.relative_to(folder))
content = json.loads((folder / "reproduction/lin2023/theorem1/rn20/result.json").read_text())
print({key: content[key] for key in ("experiment", "scale", "date")})

# %%
# The same numbers, drawn: H\ :sub:`k` is bounded above by 1/e, and far below zero at low frequencies.

figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
rows = list(theorem.rows)
for shift, column in ((-0.2, "largest"), (0.2, "k → ∞")):
    heights = [theorem.rows[row].numbers[column].value for row in rows]
    ax.bar([at + shift for at in range(len(rows))], heights, 0.4, label=column)
ax.axhline(0.368, color="grey", linewidth=1, label="1/e")
ax.set_xticks(range(len(rows)), rows)
ax.set(ylabel="H_k (nats)")
ax.legend()

# %%
# An experiment that needs data
# -----------------------------
#
# Most experiments measure models on test images. A row whose data is missing does not stop the others: it says what is
# missing and how to get it. Here no folder has CIFAR-10, so nothing is measured, and no claim is judged.

longtail = reproduce(get_experiment("lin2023:longtail"), lab, folder / "reproduction")
first = next(iter(longtail.rows.values()))
print(first.subject, "-", first.missing.splitlines()[0])
print({claim["verdict"] for claim in longtail.claims})

# %%
# On your machine
# ---------------
#
# Name the folder of the data, and see first what a run would do: ``freqrob reproduce lin2023:table1 --data ./data
# --dry-run`` lists the models, the commands and the estimated hours. Without ``--dry-run`` it trains what is missing,
# measures, and can be interrupted at any time. ``--models NAME`` measures other models under the same conditions, where
# the experiment allows it. What was measured for this manual: :doc:`/results/index`.
