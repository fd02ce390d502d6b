"""Li et al.'s figures: quotes and numbers against the paper's text, criteria, and measurements on a few images."""

import re
from dataclasses import replace
from math import nan

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from freqrob.data import Preprocessing
from freqrob.data.corruption_folders import load_corruption_folders
from freqrob.data.corruptions import SEVERITIES
from freqrob.data.photographs import imagenet_wnids
from freqrob.evaluation.corruptions import GROUPS, evaluate_corruptions
from freqrob.models.front_ends import Blur, FrontEnded
from freqrob.models.preprocessing import preprocessing_of
from freqrob.reproduction import SCALES, Lab, Number, get_experiment, li2023, list_experiments, reproduce
from freqrob.reproduction import lab as lab_module
from freqrob.reproduction.experiment import Numbers
from freqrob.reproduction.li2023 import (
    ACCURACY,
    BASE_MOUSE,
    HALF_POWER,
    HALF_SUCCESS,
    MOUSE_MODEL,
    OUR_BLUR,
    REVERSAL,
    SERIES,
    SIZE,
)
from freqrob.reproduction.run import chosen_subjects

NAMES = ["fig2", "fig3", "fig4", "fig5", "fig6", "figB", "figD", "tableA"]


def letters(text):
    """The text without spaces, marks, TeX and case, in which quotes are looked up."""
    plain = text.replace("\\pm", "±").replace("\\rm", "").replace("\\sigma", "σ")
    return re.sub(r"[^\w±]|_", "", plain).lower()


@pytest.fixture(scope="module")
def paper(shared):
    text = (shared / "papers" / "li2023_low_frequency.md").read_text()
    caption = re.compile(r"Fig 6\. Frequency analysis.*?hybrid image experiment\.", re.DOTALL)
    return letters(re.sub(r"\[\d+\]", "", caption.sub("", text)))  # the caption interrupts a sentence


def test_every_figure_of_the_main_text_is_there():
    assert sorted(list_experiments("li2023:*")) == [f"li2023:{name}" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_quoted_from_the_paper(paper, name):
    for claim in get_experiment(f"li2023:{name}").claims:
        assert letters(re.sub(r"\[\d+\]", "", claim.text)) in paper, claim.text


def test_printed_numbers_are_the_papers(paper):
    fig2 = get_experiment("li2023:fig2").printed
    for row, text in (
        (BASE_MOUSE, "1.25/255 for the baseline ResNet"), (MOUSE_MODEL, "2.89/255 for the mouse regularized one"),
        (li2023.BASE_MONKEY, "1.84/255 for the baseline VGG"),
        (li2023.MONKEY_MODEL, "2.46/255 for the monkey regularized one"),
    ):  # fmt: skip
        assert letters(text) in paper and text.startswith(f"{fig2[row][HALF_SUCCESS]}")
    for row, model in (
        (BASE_MOUSE, "baseline ResNet"), (MOUSE_MODEL, "mouse regularized one"),
        (li2023.BASE_MONKEY, "baseline VGG"), (li2023.MONKEY_MODEL, "monkey regularized one"),
    ):  # fmt: skip
        mean, deviation = (fig2[row][column].value for column in (SIZE, li2023.DEVIATION))
        assert letters(f"({mean:.2f} ± {deviation:.2f})/255 for the {model}") in paper
        half = fig2[row][HALF_POWER]
        assert letters(f"{half.value:.3f} ± {half.error:.3f}") in paper
    hybrids = {**get_experiment("li2023:fig3").printed, **get_experiment("li2023:figB").printed}
    for at in hybrids.values():
        assert (
            letters(f"{at[REVERSAL].value:.3f} ± {at[REVERSAL].error:g}") in paper
            or letters(f"{at[REVERSAL].value:.3f} and") in paper
        )


def test_at_rn20_recipes_stand_for_robustbenchs_models():
    fig4 = get_experiment("li2023:fig4")
    small, whole = fig4.subjects_at(SCALES["rn20"]), fig4.subjects_at(SCALES["paper"])
    assert {one.recipe for one in small if one.row.startswith("adv")} == {"pgd_at_rn20", "trades_rn20", "mart_rn20"}
    assert sum(one.row.startswith("adv") for one in whole) == 7 and sum(one.row.startswith("crp") for one in whole) == 2
    for models in (small, whole):
        assert OUR_BLUR in [one.row for one in models] and "pca: K = 512" in [one.row for one in models]
    series = [one for one in get_experiment("li2023:fig5").subjects_at(SCALES["rn20"]) if one.row in SERIES]
    assert [one.full_recipe().blur_sigma for one in series] == [1, 1.5, 2, 2.5, 3]
    pca = next(one for one in small if one.row.startswith("pca"))
    assert pca.full_recipe().components == 512


def verdicts(name, rows):
    numbers = Numbers({row: {key: Number(value, 0.01) for key, value in at.items()} for row, at in rows.items()})
    return [claim.judge(numbers).verdict for claim in get_experiment(f"li2023:{name}").claims]


def test_figure_2_is_judged_by_its_panels():
    base = {"clean": 80, "low": 60, "medium": 60, "high": 40, SIZE: 1.3, HALF_POWER: 0.44}
    model = {"clean": 78, "low": 61, "medium": 62, "high": 60, SIZE: 3.1, HALF_POWER: 0.32}
    base |= {f"severity {s}": 60 for s in range(1, 6)}
    model |= {f"severity {s}": 65 for s in range(1, 6)}
    assert verdicts("fig2", {BASE_MOUSE: base, MOUSE_MODEL: model})[:4] == ["holds"] * 4
    swapped = verdicts("fig2", {BASE_MOUSE: model, MOUSE_MODEL: base})[:4]
    assert swapped == ["does not hold"] * 4
    assert verdicts("fig2", {BASE_MOUSE: base, MOUSE_MODEL: {**model, "medium": 90}})[2] == "does not hold"


def models(**changes):
    rows = {
        "base: ResNet": {HALF_POWER: 0.44, SIZE: 1.0, REVERSAL: 0.5, ACCURACY: 70},
        "adv: PGD-AT": {HALF_POWER: 0.2, SIZE: 9.0, REVERSAL: 0.2, ACCURACY: 74},
        "crp: AugMix": {HALF_POWER: 0.3, SIZE: 2.0, REVERSAL: 0.4, ACCURACY: 85},
        "pca: K = 512": {HALF_POWER: 0.31, SIZE: 1.8, REVERSAL: 0.39, ACCURACY: 78},
        **{row: {HALF_POWER: 0.29, SIZE: 2.2, REVERSAL: f, ACCURACY: a}
           for row, f, a in zip(SERIES, (0.45, 0.4, 0.35, 0.3, 0.25), (76, 79, 79, 78, 76), strict=True)},
    }  # fmt: skip
    for row, change in changes.items():
        rows[next(name for name in rows if name.startswith(row))].update(change)
    return rows


def test_figures_4_and_5_are_judged_by_groups():
    assert verdicts("fig4", models()) == ["holds"] * 4
    assert verdicts("fig4", models(base={HALF_POWER: 0.25}))[:3] == ["does not hold"] * 3
    assert verdicts("fig4", models(crp={HALF_POWER: 0.5}))[:3] == ["does not hold", "holds", "does not hold"]
    assert verdicts("fig5", models()) == ["holds"] * 5
    assert verdicts("fig5", models(crp={ACCURACY: 60}))[0] == "does not hold"
    assert verdicts("fig5", models(adv={REVERSAL: 0.6}))[1] == "does not hold"
    assert verdicts("fig5", models(adv={ACCURACY: 90}))[2] == "does not hold"
    far = models(adv={ACCURACY: 60}, pca={ACCURACY: 90}, base={ACCURACY: 50})
    assert verdicts("fig5", far)[3] == "does not hold"
    rising = models()
    for row, value in zip(SERIES, (70, 71, 72, 73, 74), strict=True):
        rising[row][ACCURACY] = value
    assert verdicts("fig5", rising)[4] == "does not hold"
    del rising[SERIES[0]]
    assert verdicts("fig5", rising)[4] == "not measured"


def test_bands_are_ordered_by_what_corruptions_change():
    rows = {"fog": 0.05, "frost": 0.1, "pixelate": 0.3, "jpeg_compression": 0.25, "gaussian_noise": 0.4}
    assert verdicts("tableA", {row: {li2023.HALF: value} for row, value in rows.items()}) == ["holds"]
    rows["gaussian_noise"] = 0.01
    assert verdicts("tableA", {row: {li2023.HALF: value} for row, value in rows.items()}) == ["does not hold"]


def test_models_of_ones_own_count_in_correlations_only():
    rows = {**models(), "mine": {HALF_POWER: 0.6, SIZE: 30, REVERSAL: nan, ACCURACY: nan}}
    assert verdicts("fig4", rows)[:3] == ["holds"] * 3


@pytest.fixture
def quick(lab, monkeypatch):
    monkeypatch.setitem(li2023.STEPS, "rn20", 5)
    monkeypatch.setattr(li2023, "COUNTED", 4)
    monkeypatch.setattr(li2023, "GROUPS", {**li2023.GROUPS, "15 types": ("brightness", "frost", "gaussian_noise")})
    return replace(lab, may_train=False, n_images=12)


def test_models_are_measured_and_drawn(quick, tmp_path):
    for name in ("fig4", "fig5"):
        found = reproduce(
            get_experiment(f"li2023:{name}"), quick, tmp_path / "out", models=["pgd_at_rn20", "standard_rn20"]
        )
        assert all(row.numbers for row in found.rows.values())
        assert any(path.suffix == ".svg" for path in found.files)
        for row in found.rows.values():
            for column in get_experiment(f"li2023:{name}").columns:
                assert column.name in row.numbers
    reversals = {row: found.rows[row].numbers for row in found.rows}
    for at in reversals.values():
        ratio = at[REVERSAL].value / at[li2023.REVERSAL_CYCLES].value
        assert np.isnan(ratio) or ratio == pytest.approx(2)


def test_what_neural_data_lack_is_said(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = reproduce(get_experiment("li2023:figD"), quick, tmp_path / "out")
    assert "mouse_v1.npz" in found.rows["mouse V1"].missing
    found = reproduce(get_experiment("li2023:fig3"), quick, tmp_path / "out")
    assert "neural_similarity_rn20" in found.rows[MOUSE_MODEL].missing


def test_components_of_neural_data_are_measured_and_drawn(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(40, 1, 32, 32), dtype=np.uint8)
    smooth = torch.from_numpy(images).float().mean((2, 3), keepdim=True).flatten(1)
    responses = torch.nn.functional.normalize(smooth - smooth.mean(0), dim=0).numpy() @ rng.normal(size=(1, 5))
    unit = responses / np.linalg.norm(responses, axis=1, keepdims=True)
    np.savez("mouse_v1.npz", images=images, similarity=np.clip(unit @ unit.T, -1, 1))
    found = reproduce(get_experiment("li2023:figD"), quick, tmp_path / "out")
    assert found.rows["mouse V1"].numbers[li2023.EXPLAINED].value == pytest.approx(100)
    assert any(path.suffix == ".png" for path in found.files)


def test_corruptions_are_measured_and_drawn(quick, tmp_path):
    table = get_experiment("li2023:tableA")
    chosen = [one for one in table.subjects if one.row in ("brightness", "gaussian_noise")]
    rows = {one.row: table.measure(one, None, quick) for one in chosen}
    low, high = (rows[name].numbers[li2023.HALF].value for name in ("brightness", "gaussian_noise"))
    assert low < 0.2 < 0.35 < high
    outcome = li2023.Outcome(Numbers({}), {row: measured.arrays for row, measured in rows.items()}, {})
    table.plot(outcome, Figure())


def test_figure_6_at_a_small_scale_has_blurs_without_fine_tuning(tmp_path, monkeypatch):
    """The blur is before the whole model of ``base``, and takes its photographs."""
    figure = get_experiment("li2023:fig6")
    small, whole = figure.subjects_at(SCALES["rn20"]), figure.subjects_at(SCALES["paper"])
    assert {one.row for one in small} & {one.row for one in whole} == {*SERIES}
    tuned = [one.full_recipe() for one in whole if one.row in SERIES]
    assert [recipe.blur_sigma for recipe in tuned] == [1, 1.5, 2, 2.5, 3]
    assert {recipe.initial_weights for recipe in tuned} == {"torchvision:resnet50?weights=IMAGENET1K_V1"}
    assert [one.row for one in small if one.front_end] == [*SERIES]
    assert "not fine-tuned" in figure.conditions(SCALES["rn20"])["blur"]
    bare = FrontEnded([], torch.nn.AvgPool2d(8), Preprocessing(40, 32)).eval()
    monkeypatch.setattr(lab_module, "open_model", lambda *_: bare)
    lab, images = Lab(SCALES["rn20"], data=tmp_path), torch.rand(1, 3, 32, 32)
    model = lab.model(next(one for one in small if one.row == OUR_BLUR))
    assert torch.equal(model(images), bare(Blur(1.5)(images))) and not torch.equal(model(images), bare(images))
    assert preprocessing_of(model) == Preprocessing(40, 32)
    assert lab.model(small[0]) is bare


def test_other_models_of_figure_6_are_measured_on_imagenet(tmp_path):
    lab = Lab(SCALES["rn20"], data=tmp_path)
    assert [one.dataset for one in chosen_subjects(get_experiment("li2023:fig6"), lab, ["timm:one"])] == ["imagenet"]
    replaced = chosen_subjects(get_experiment("li2023:fig6"), lab, [f"{OUR_BLUR}=timm:blurred"])
    assert replaced[0].front_end is None, "a replacement has its own"


def test_figure_6_is_judged_by_its_blurs():
    assert verdicts("fig6", models())[3] == "holds"
    assert verdicts("fig6", models(**{SERIES[0]: {ACCURACY: 90}}))[3] == "does not hold"


def test_figure_6_is_measured_on_photographs(tmp_path, monkeypatch):
    """Of ImageNet and ImageNet-C as they are unpacked, with the network's own preprocessing."""
    torch.manual_seed(0)
    wnids = imagenet_wnids()[:2]
    network = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(48, 1000))
    model = FrontEnded([], network, Preprocessing(40, 32)).eval()
    pixels = torch.randint(256, (4, 48, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for number, photograph in enumerate(pixels.numpy()):
        file = f"{wnids[number % 2]}/ILSVRC2012_val_{number:08}.JPEG"
        corrupted = [f"ImageNet-C/{name}/{severity}/{file}" for name in GROUPS["15 types"] for severity in SEVERITIES]
        for path, size in ((f"val/{file}", (50, 48)), *((path, (32, 32)) for path in corrupted)):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph).resize(size).save(tmp_path / path)
    figure = get_experiment("li2023:fig6")
    lab = Lab(SCALES["rn20"], data=tmp_path, n_images=4)
    for name, few in (("STEPS", 2), ("PGD_STEPS", 2), ("REPEATS", 1)):
        monkeypatch.setattr(li2023, name, {"rn20": few})
    found = figure.measure(figure.subjects[0], model, lab)
    corruptions = load_corruption_folders(tmp_path)
    expected = evaluate_corruptions(model, corruptions).means()["15 types"]
    assert found.numbers[li2023.ACCURACY].value == pytest.approx(100 * expected)
    assert found.arrays["low"].shape[1] > 1
