"""The models that come with the package."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch

from freqrob.evaluation import PROTOCOLS
from freqrob.models import list_models, load_model
from freqrob.models.loading import load_card

SHIPPED = [
    "augmix_rn20", "bass_augmix_rn20", "bass_mart_rn20", "bass_pgd_at_rn20", "bass_standard_rn20",
    "bass_trades_rn20", "bassfront_pgd_at_rn20", "bassmix_pgd_at_rn20", "bassmix_standard_rn20",
    "blur_standard_rn20", "fgsm_jafr_minus_rn20", "fgsm_jafr_rn20", "fgsm_rn20", "grad_align_rn20",
    "jafr_minus_rn20", "jafr_rn20", "mart_rn20", "pca_standard_rn20", "pgd_at_rn20", "standard_rn20", "trades_rn20",
]  # fmt: skip
WEIGHTS = Path(str(resources.files("freqrob.models") / "weights"))


def test_these_and_no_others():
    assert list_models(model_dir=WEIGHTS) == SHIPPED
    assert {path.stem for path in WEIGHTS.rglob("*.safetensors")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_small_enough_and_measured_on_all_test_images(name):
    (file,) = WEIGHTS.rglob(f"{name}.safetensors")
    assert file.stat().st_size < (4_000_000 if name.startswith("pca_") else 1_000_000)  # with its components
    card = load_card(name)
    measured = {(r["protocol"], r["attack"]): r for r in card.results if r["images"] == 10_000}
    assert set(measured) == {(protocol, attack) for protocol in PROTOCOLS for attack in ("clean", "FGSM", "PGD-20")}
    for (_, attack), result in measured.items():
        assert result["eps"] == pytest.approx(0 if attack == "clean" else 8 / 255)
        assert 0 <= result["accuracy"] <= 1
    assert card.commit and card.recipe["selected"], "where it comes from, and how its epoch was chosen"


@pytest.mark.parametrize("name", SHIPPED)
def test_classifies_real_images_about_as_its_card_says(name, golden_bass):
    """The first 60 test images; three standard deviations around the card's clean accuracy."""
    images = torch.from_numpy(golden_bass["images"][:60]).permute(0, 3, 1, 2).float() / 255
    said = next(r["accuracy"] for r in load_card(name).results if (r["protocol"], r["attack"]) == ("natural", "clean"))
    with torch.no_grad():
        found = (load_model(name)(images).argmax(1) == torch.tensor(LABELS)).float().mean().item()
    assert abs(found - said) < 3 * (said * (1 - said) / 60) ** 0.5


def test_loads_from_any_folder(tmp_path):
    code = (
        "import torch, freqrob; model = freqrob.load_model('bass_pgd_at_rn20');"
        "print(tuple(model(torch.rand(2, 3, 32, 32)).shape), model.training)"
    )
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == "(2, 10) False"


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("bass")])
def test_twins_share_their_settings(name):
    """What a card says, but for the name, what was chosen, and where BaSS is."""

    def settings(name):
        recipe = load_card(name).recipe
        defense = {key: value for key, value in recipe["defense"].items() if key != "bass_view"}
        return {**recipe, "defense": defense, "name": None, "selected": None}

    assert settings(name) == settings(name.partition("_")[2])


# CIFAR-10's labels of test images 0 to 59.
LABELS = [
    3, 8, 8, 0, 6, 6, 1, 6, 3, 1, 0, 9, 5, 7, 9, 8, 5, 7, 8, 6, 7, 0, 4, 9, 5, 2, 4, 0, 9, 6,
    6, 5, 4, 5, 9, 2, 4, 1, 9, 5, 4, 6, 5, 6, 0, 9, 3, 9, 7, 6, 9, 8, 0, 3, 8, 8, 7, 7, 4, 6,
]  # fmt: skip
