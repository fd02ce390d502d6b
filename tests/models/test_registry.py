"""Names of models and of architectures."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freqrob.models import create_network, list_architectures, registry
from freqrob.models.registry import DEFENSES, VARIANTS, ModelName
from tests.support.networks import PARAMETERS

PARTS = st.tuples(
    st.sampled_from([None, *VARIANTS]), st.sampled_from([*DEFENSES]), st.sampled_from(list_architectures())
)
NAMES = registry.all_model_names()


def test_an_architecture_for_colour_images_only(tiny):
    with pytest.raises(ValueError, match="in_channels: tiny takes images of 3 channels only, got 1"):
        create_network("tiny", in_channels=1)
    with pytest.raises(ValueError, match="in_channels: expected an integer ≥ 1, got 0"):
        create_network("rn20", in_channels=0)


@given(PARTS)
def test_names_round_trip(parts):
    name = ModelName(*parts)
    assert ModelName.parse(str(name)) == name


@given(st.text() | st.builds("_".join, st.lists(st.sampled_from([*VARIANTS, *DEFENSES, *list_architectures()]))))
def test_names_are_parsed_or_refused(text):
    if text in NAMES:
        assert str(ModelName.parse(text)) == text
    else:
        with pytest.raises(ValueError, match="model_name: got "):
            ModelName.parse(text)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("pgd_at_rn20", (None, "pgd_at", "rn20")),
        ("bass_trades_wrn34", ("bass", "trades", "wrn34")),
        ("bassmix_fgsm_jafr_prn18_jafr", ("bassmix", "fgsm_jafr", "prn18_jafr")),
        ("bassfront_jafr_prn18", ("bassfront", "jafr", "prn18")),
        ("standard_wrn40_2", (None, "standard", "wrn40_2")),
        ("blur_standard_rn18", ("blur", "standard", "rn18")),
        ("pca_pgd_at_resnext29", ("pca", "pgd_at", "resnext29")),
        ("fgsm_jafr_minus_prn18_jafr", (None, "fgsm_jafr_minus", "prn18_jafr")),
        ("neural_similarity_rn50", (None, "neural_similarity", "rn50")),
    ],
)
def test_names_mean(text, parts):
    assert ModelName.parse(text) == ModelName(*parts)


def test_every_name_is_different():
    assert len(set(NAMES)) == 6 * 13 * len(PARAMETERS)


def test_name_errors_name_the_argument_and_what_is_near():
    with pytest.raises(ValueError, match=r"model_name: got 'bass_pgdat_rn20'.*Nearest: bass_pgd_at_rn20"):
        ModelName.parse("bass_pgdat_rn20")
    with pytest.raises(ValueError, match=r"model_name: got 'blur_rn20', expected \[.*\]<defence>"):
        ModelName.parse("blur_rn20")
    with pytest.raises(ValueError, match=r"variant: got 'bas'"):
        ModelName("bas", "pgd_at", "rn20")
    with pytest.raises(ValueError, match=r"defense: got 'trade'.*Nearest: trades"):
        ModelName(None, "trade", "rn20")
    with pytest.raises(ValueError, match=r"architecture: got 'wrn43'.*Nearest: wrn34"):
        ModelName(None, "trades", "wrn43")


def test_registry_errors():
    with pytest.raises(ValueError, match=r"architecture: got 'rn2'.*Nearest: rn20"):
        create_network("rn2")
    with pytest.raises(ValueError, match="num_classes: expected an integer ≥ 1, got 0"):
        create_network("rn20", num_classes=0)
    with pytest.raises(ValueError, match="'rn20' is already registered"):
        registry.register_architecture("rn20")(lambda num_classes: None)
    assert list_architectures("wrn*") == ["wrn28", "wrn34", "wrn40_2"]


def test_import_is_light():
    code = "import freqrob.models, sys; print({'torchvision', 'lightning', 'matplotlib'} & sys.modules.keys())"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
