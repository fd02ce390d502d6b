"""The page of the demo, its numbers on disk, and the sample images."""

import csv
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec

import pytest
import torch

from freqrob.data import samples
from freqrob.data.datasets import ImageSet
from freqrob.files import write_text
from freqrob.models import create_network
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save
from freqrob.report import collect, figures, render, write_report
from freqrob.report.measure import summarise_spectrum
from freqrob.report.page import widest_margin
from freqrob.report.records import COLUMNS
from freqrob.spectral.rings import RingMap

pytestmark = pytest.mark.usefixtures("tiny")
IMAGES = 6
CARD_ACCURACY = 0.4321


def pink_images(count: int) -> torch.Tensor:
    """Images whose power falls with the frequency, as natural ones do."""
    noise = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    slope = 1 / RingMap(32, 32).half.clamp(min=1)
    pink = torch.fft.irfft2(torch.fft.rfft2(noise) * slope)
    return (128 + 60 * pink / pink.std()).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def dataset():
    return ImageSet(pink_images(IMAGES + 2), torch.arange(IMAGES + 2) % 10, samples.CIFAR10_CLASSES)


@pytest.fixture(scope="module")
def model_dir(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    results = [
        {"protocol": "natural", "attack": "clean", "eps": 0.0, "images": 10000, "seed": 0, "accuracy": CARD_ACCURACY},
        {"protocol": "natural", "attack": "PGD-20", "eps": 4 / 255, "images": 10000, "seed": 0, "accuracy": 0.9999},
    ]
    for name in ("bass_pgd_at_tiny", "pgd_at_tiny"):
        torch.manual_seed(len(name))
        card = Card(name, "tiny", results=results)
        save(folder / "cifar10" / "Linf" / f"{name}.safetensors", create_network("tiny").state_dict(), card)
    return folder


@pytest.fixture(scope="module")
def measurements(dataset, model_dir):
    names = ["bass_pgd_at_tiny", "pgd_at_tiny"]
    return collect(
        dataset, names, source="pink <noise>", images=IMAGES, model_dir=model_dir, seed=3, command="freqrob demo"
    )


@pytest.fixture(scope="module")
def page(measurements):
    return render(measurements)


class Tags(HTMLParser):
    """Every tag with its attributes, and a list of the ones that were closed in the wrong order."""

    VOID = ("meta", "img", "br", "hr", "input", "link")

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.crossed = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.crossed.append(tag)


def test_page_has_every_section_and_is_well_formed(page):
    tags = Tags(page)
    sections = [attributes["id"] for tag, attributes in tags.found if tag == "section"]
    assert sections == ["images", "spectra", "models", "gradients"]
    assert (tags.open, tags.crossed) == ([], [])
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_needs_nothing_outside_it(page):
    tags = Tags(page)
    assert {tag for tag, _ in tags.found} & {"script", "link", "iframe", "object"} == set()
    found = [item for _, attributes in tags.found for item in attributes.items()]
    addresses = [value for key, value in found if key in ("src", "href", "xlink:href", "srcset", "data")]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert re.findall(r"url\((?!#)", page) == [] and "@import" not in page


def test_every_image_has_its_twin_and_an_alternative_text(page, dataset):
    pictures = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert len(pictures) == 2 * len(dataset)
    assert all(picture["alt"] for picture in pictures)
    assert pictures[0]["src"] == figures.png_uri(dataset.images[0]) != pictures[1]["src"]


def test_figures_follow_the_page_from_light_to_dark(page):
    assert "prefers-color-scheme: dark" in page
    assert "var(--natural)" in page and "var(--bass)" in page
    assert not re.search("|".join(figures._VARIABLES), page)


def test_what_users_write_is_escaped(page):
    assert "pink &lt;noise&gt;" in page and "pink <noise>" not in page


def cells(page, model, origin):
    """The accuracies of a line of the table, as shown."""
    body = page[page.index(f"<code>{model}</code></th>") :]
    line = body[body.index(f">{origin}") :].split("</tr>")[0]
    return re.findall(r'--share: [^"]*">([^<]*)</td>', line)


def test_table_shows_what_was_measured_and_what_the_card_says(page, measurements):
    for model in measurements.models:
        shown = cells(page, model.name, f"here, {IMAGES} images")
        assert shown == [f"{100 * result.accuracy:.1f}" for result in model.measured]
        assert [(r.protocol, r.attack.name) for r in model.measured] == [
            (protocol, attack) for protocol in ("natural", "natural+bass", "bass") for attack in ("clean", "PGD-20")
        ]
        # The card has PGD at 4/255 only, which is not the column's.
        assert cells(page, model.name, "card, 10,000 images") == ["43.2", *["–"] * 5]


def test_models_stand_beside_their_relatives(measurements):
    assert [model.name for model in measurements.models] == ["pgd_at_tiny", "bass_pgd_at_tiny"]


def test_page_states_its_conditions(page, measurements):
    for fact in (f"{IMAGES} images", "seed 3", "8/255", measurements.provenance["date"], "3.53", "about 20 %"):
        assert fact in page
    for number in (f"α = {measurements.natural.power_law.alpha:.2f}", f"{measurements.balanced.entropy:.2f}"):
        assert number in page


def test_page_without_models_says_how_to_get_them(measurements):
    text = render(replace(measurements, models=[]))
    assert "No model is installed" in text and "freqrob train" in text


def test_json_and_csv_agree_with_the_measurements(measurements, tmp_path):
    assert write_report(measurements, tmp_path / "new" / "report").read_text() == render(measurements)
    folder = tmp_path / "new" / "report"
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "results.csv", "results.json"]
    found = json.loads((folder / "results.json").read_text())
    assert (found["images"], found["seed"], found["command"]) == (IMAGES, 3, "freqrob demo")
    assert {"commit", "versions", "machine", "date", "source"} <= set(found)
    assert found["spectra"]["natural"]["alpha"] == measurements.natural.power_law.alpha
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    for model, written in zip(measurements.models, found["models"], strict=True):
        accuracies = [result.accuracy for result in model.measured]
        assert [result["accuracy"] for result in written["measured"]] == accuracies
        mine = [row for row in rows if row["subject"] == model.name and row["from"] == "measured"]
        assert [float(row["value"]) for row in mine if row["quantity"] == "accuracy"] == accuracies
        assert [float(row["value"]) for row in mine if row["quantity"] == "log_b_low"] == [model.jacobian.log_b_low]
        assert [row["value"] for row in rows if row["subject"] == model.name and row["from"] == "card"] == [
            str(CARD_ACCURACY), "0.9999",
        ]  # fmt: skip


def test_text_is_whole_or_absent(tmp_path):
    (tmp_path / "page.html").write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "page.html", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "before"


def test_measuring_more_images_than_there_are_is_refused(dataset):
    for count in (0, len(dataset) + 1):
        with pytest.raises(ValueError, match=f"images: expected 1 to {len(dataset)}"):
            collect(dataset, [], source="", images=count)


def test_spectra_are_of_all_images_and_models_of_the_first(measurements, dataset):
    assert measurements.natural.images == len(dataset)
    assert {model.jacobian.images for model in measurements.models} == {IMAGES}
    assert {result.images for model in measurements.models for result in model.measured} == {IMAGES}


def test_summary_finds_the_power_law_and_bass_flattens_it(measurements):
    noise = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    white = summarise_spectrum(noise)
    assert abs(white.power_law.alpha) < 0.1 and white.split.radius > 0.4
    assert white.power[1:].mean().item() == pytest.approx(32 * 32 / 12, rel=0.05)
    assert measurements.natural.power_law.alpha == pytest.approx(2, abs=0.4)
    assert measurements.balanced.power_law.alpha < measurements.natural.power_law.alpha - 1
    assert measurements.balanced.entropy > measurements.natural.entropy


@pytest.mark.parametrize("height, width", [(32, 32), (8, 6), (5, 7), (6, 5)])
def test_shifted_map_is_the_whole_spectrum(height, width):
    image = torch.randn(height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.fft.fftshift(torch.fft.fft2(image)).abs()
    torch.testing.assert_close(figures.shifted_map(torch.fft.rfft2(image).abs(), width), expected)


def test_gradient_maps_share_a_scale_that_holds_them():
    flat, steep = torch.ones(8, 5), torch.ones(8, 5)
    steep[0, 0] = 100
    low, high = figures.gradient_limits([flat, steep], 8)
    whole = figures.shifted_map(steep, 8)
    assert high == pytest.approx((whole / whole.mean()).max().item()) and low <= 1 / whole.mean().item()
    assert figures.gradient_limits([flat], 8)[0] < figures.gradient_limits([flat], 8)[1]


def test_dead_gradient_is_drawn():
    assert "<svg" in figures.gradient_figure(torch.zeros(32, 17), 32, (0.5, 2.0), "dead")
    assert figures.gradient_limits([torch.zeros(32, 17)], 32) == (0.5, 2.0)


def test_widest_margin_is_wilsons():
    assert widest_margin(20) == pytest.approx(0.201, abs=1e-3)  # 10 of 20: 0.299 to 0.701
    assert widest_margin(10_000) == pytest.approx(0.0098, abs=1e-4)


def test_samples_are_the_first_test_images():
    if find_spec("foolbox") is None:
        pytest.skip("foolbox, whose images these are, is not installed")
    found = samples.sample_images()
    assert found.images.shape == (20, 3, 32, 32) and found.images.dtype == torch.uint8
    # The labels of CIFAR-10's first twenty test images.
    assert found.labels.tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1, 0, 9, 5, 7, 9, 8, 5, 7, 8, 6]
    assert [found.classes[label] for label in found.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    assert found.images[0, :, 0, 0].tolist() == [158, 112, 49]
    assert "foolbox" not in sys.modules or hasattr(sys.modules["foolbox"], "PyTorchModel")


def test_samples_without_foolbox_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(samples, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install foolbox.*--data DIR"):
        samples.sample_images()


def test_samples_that_are_not_all_there_are_refused(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar10_00_3.png").write_bytes(b"")
    monkeypatch.setattr(samples, "_foolbox_folders", lambda: [tmp_path])
    with pytest.raises(FileNotFoundError, match="only 1 of them"):
        samples.sample_images()


def test_model_whose_card_has_no_figures(page, measurements):
    bare = replace(measurements.models[0], card=Card("pgd_at_tiny", "tiny"))
    text = render(replace(measurements, models=[bare]))
    assert cells(text, "pgd_at_tiny", "card, no figures") == ["–"] * 6
