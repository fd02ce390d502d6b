"""Accuracies by protocol, against models whose accuracy is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from freqrob.attacks import FGSM, PGD, Clean, input_gradient, pgd, projected_gradient
from freqrob.attacks.losses import cross_entropy
from freqrob.evaluation import PROTOCOLS, accuracy, evaluate
from freqrob.models.front_ends import Blur, FrontEnded
from freqrob.runtime.files import write_json
from freqrob.spectral.balance import BaSS, bass


class Brightness(nn.Module):
    """Two classes: is the image's mean above one half? An attack of ε flips those nearer than ε."""

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


@pytest.fixture
def grey():
    """Constant images at 100 levels, which BaSS leaves alone; the true class is Brightness's."""
    levels = torch.arange(78, 178, dtype=torch.uint8)
    return levels[:, None, None, None].expand(-1, 3, 8, 8).contiguous(), (levels >= 128).long()


def test_known_accuracies(grey):
    images, labels = grey
    results = evaluate(Brightness(), images, labels, attacks=(Clean(), PGD(steps=20, eps=8 / 255)), batch_size=33)
    assert [(r.protocol, r.attack.name) for r in results] == [(p, a) for p in PROTOCOLS for a in ("clean", "PGD-20")]
    for result in results:
        assert result.images == 100 and result.seed == 0 and result.correct.sum() == 100 * result.accuracy
        assert result.accuracy == (1.0 if result.attack == Clean() else 0.84), "±8 levels around 127.5 fall"


def test_misclassified_images_count_as_broken(grey):
    images, labels = grey
    robust = evaluate(Brightness(), images, 1 - labels, protocols=["natural"], attacks=[PGD(steps=5)])
    assert robust[0].accuracy == 0


def test_a_lucky_random_start_repairs_nothing():
    """Just below the threshold and labelled as above: noise alone puts a quarter of these right."""
    images, labels = torch.full((100, 3, 8, 8), 127, dtype=torch.uint8), torch.ones(100, dtype=torch.int64)
    only_noise = PGD(steps=1, eps=20 / 255, step_size=0.0)
    assert evaluate(Brightness(), images, labels, protocols=["natural"], attacks=[only_noise])[0].accuracy == 0


class HighFrequency(nn.Module):
    """Two classes by the power of the finest stripes, which BaSS raises."""

    def forward(self, images):
        wave = (torch.arange(8) % 2 * 2 - 1).to(images)
        power = (images * wave).mean((1, 2, 3)).square()
        return torch.stack([torch.full_like(power, 1e-4), power], 1)


def test_protocols_differ_where_they_should():
    """Balanced first or balanced within the model is the same image while nothing attacks."""
    torch.manual_seed(0)
    smooth = nn.functional.avg_pool2d(torch.rand(64, 3, 10, 10), 3, 1)
    images = (smooth * 255).to(torch.uint8)
    labels = (HighFrequency()(bass(images) / 255)).argmax(1)
    natural, within, first = evaluate(HighFrequency(), images, labels, attacks=[Clean()])
    assert first.accuracy == 1.0
    assert within.accuracy > 0.9 and natural.accuracy < 0.9


def test_seeded_and_independent_of_other_attacks(grey):
    images, labels = grey
    attack = PGD(steps=1, eps=20 / 255, step_size=1 / 255)
    alone = evaluate(Brightness(), images, labels, protocols=["bass"], attacks=[attack], seed=3)
    among = evaluate(Brightness(), images, labels, attacks=[Clean(), attack], seed=3)
    assert alone[0] == among[-1] and torch.equal(alone[0].correct, among[-1].correct)


def test_what_is_attacked_under_each_protocol(monkeypatch):
    """The very model, images, step and random start that PGD is given."""
    given = []

    def spy(model, images, labels, *, start, **options):
        given.append((model, images, options, start))
        return pgd(model, images, labels, start=start, **options)

    monkeypatch.setattr(projected_gradient, "pgd", spy)
    torch.manual_seed(0)
    images = (nn.functional.avg_pool2d(torch.rand(8, 3, 34, 34), 3, 1) * 255).to(torch.uint8)
    model = Brightness()
    labels = model(images / 255).argmax(1)
    evaluate(model, images, labels, attacks=[PGD(steps=3), PGD(steps=2, eps=4 / 255, step_size=1 / 255)], seed=7)
    (bare, natural, first, start), *_ = given
    assert bare is model and torch.equal(natural, images / 255)
    assert first == {"eps": 8 / 255, "step_size": 2 / 255, "steps": 3, "norm": "Linf", "stop_when_fooled": True,
                     "loss": cross_entropy}  # fmt: skip
    noise, half = start - natural, given[1][3] - natural
    assert 7 / 255 < noise.abs().max() <= 8.001 / 255
    inside = (start - 0.5).abs() < 0.49
    assert given[1][2]["step_size"] == 1 / 255
    assert torch.allclose(noise[inside], 2 * half[inside], atol=1e-6), "each attack draws again"
    fronted = given[2][0]
    assert isinstance(fronted.front_ends[0], BaSS) and fronted.network is model, "attacked through BaSS"
    x = natural.clone().requires_grad_()
    assert not torch.equal(input_gradient(fronted, x, labels), input_gradient(model, x, labels))
    balanced = bass(images) / 255
    right = model(balanced).argmax(1) == labels
    assert right.any() and given[4][0] is model and torch.equal(given[4][1], balanced[right])


def test_fgsm_is_one_full_step_from_the_image(grey, monkeypatch):
    given = []

    def spy(model, images, labels, **options):
        given.append(pgd(model, images, labels, **options) - images)
        return images + given[-1]

    monkeypatch.setattr(projected_gradient, "pgd", spy)
    eps = 5 / 255
    (result,) = evaluate(Brightness(), *grey, protocols=["natural"], attacks=[FGSM(eps)])
    assert result.as_dict() == {
        "protocol": "natural", "attack": "FGSM", "eps": eps, "step_size": eps, "norm": "Linf",
        "precision": "float32", "images": 100, "seed": 0, "accuracy": 0.9,
    }  # fmt: skip
    assert given[0].shape[0] == 100
    torch.testing.assert_close(given[0].abs(), torch.full_like(given[0], eps))


class Counting(Brightness):
    __slots__ = ("calls",)  # no attribute by which the model is known

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images)


def test_predictions_are_computed_once_a_protocol(grey):
    model, attacks = Counting(), [Clean(), FGSM(), PGD(steps=2), Clean(), FGSM()]
    results = evaluate(model, *grey, protocols=["natural"], attacks=attacks, batch_size=50)
    assert [result.attack for result in results] == attacks and results[1] == results[4]
    checks = 3 + 1 + 1  # passes that have to agree, a gradient, and a trial of channels_last
    assert model.calls == checks + 2 * (1 + (1 + 1) + (2 + 1)), "clean, each attack's steps and last iterate, by batch"


class OwnBaSS(FrontEnded):
    """Brightness behind a blur and BaSS."""

    def __init__(self, weighting="amplitude"):
        super().__init__([BaSS(weighting), Blur(0.5)], Brightness())


@pytest.mark.parametrize("weighting", ["amplitude", "power"])
def test_bass_never_comes_twice(monkeypatch, weighting):
    given = []

    def spy(model, images, labels, **options):
        given.append((model, images))
        return pgd(model, images, labels, **options)

    monkeypatch.setattr(projected_gradient, "pgd", spy)
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = OwnBaSS(weighting).train()
    labels = model(images / 255).argmax(1)
    chosen = [Clean(), PGD(steps=2)]
    natural, adaptive, first = (evaluate(model, images, labels, protocols=[p], attacks=chosen) for p in PROTOCOLS)
    whole, within, left_out = given
    assert whole[0] is model and within[0] is model and torch.equal(within[1], images / 255)
    assert [result.accuracy for result in natural] == [result.accuracy for result in adaptive]
    assert [result.protocol for result in adaptive] == ["natural+bass"] * 2
    assert list(left_out[0].front_ends) == [model.front_ends[1]] and left_out[0].network is model.network
    balanced = bass(images, weighting=weighting) / 255
    assert torch.equal(left_out[1], balanced[left_out[0](balanced).argmax(1) == labels])
    given.clear()
    assert evaluate(model, images, labels, attacks=chosen) == [*natural, *adaptive, *first]
    assert len(given) == 2, "natural is not measured again for natural+bass"
    assert list(map(type, model.front_ends)) == [BaSS, Blur] and model.training


@pytest.fixture
def behind_wrappers(tmp_path):
    """Ways to wrap a model that are not to change any number."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield {
        "DataParallel": nn.DataParallel,
        "DistributedDataParallel": nn.parallel.DistributedDataParallel,
        "twice": lambda model: nn.DataParallel(nn.parallel.DistributedDataParallel(model)),
        "compile": lambda model: torch.compile(model, backend="eager"),
        "AveragedModel": AveragedModel,
        "Sequential": nn.Sequential,
        "FrontEnded": lambda model: FrontEnded([], model),
        "stages": lambda model: nn.Sequential(*model.front_ends, model.network),
        "Foolbox": lambda model: pytest.importorskip("foolbox").PyTorchModel(model, (0, 1), "cpu"),
    }
    torch.distributed.destroy_process_group()


def test_bass_never_comes_twice_behind_wrappers_either(behind_wrappers):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 4))
    model = FrontEnded([BaSS("power"), Blur(0.5)], network).eval()
    smooth = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(1)).repeat_interleave(4, 2)
    images = (255 * smooth.repeat_interleave(4, 3)).byte()  # of other spectra than BaSS makes
    labels = model(images / 255).argmax(1)
    chosen = [Clean(), FGSM(4 / 255), PGD(steps=3, eps=4 / 255)]
    bare = evaluate(model, images, labels, attacks=chosen)
    assert bare[:3] != [replace(result, protocol="natural") for result in bare[6:]], (
        "leaving BaSS out changes something"
    )
    for name, wrap in behind_wrappers.items():
        found = evaluate(wrap(model), images, labels, attacks=chosen)
        for one, expected in zip(found, bare, strict=True):
            assert one == expected and torch.equal(one.correct, expected.correct), name


def test_images_go_where_the_model_is(grey):
    class Elsewhere(Brightness):
        def __init__(self):
            super().__init__()
            self.register_buffer("somewhere", torch.zeros(1, device="meta"))

        def forward(self, images):
            raise RuntimeError(f"images are on {images.device}")

    with pytest.raises(ValueError, match="images are on meta"):
        evaluate(Elsewhere(), *grey)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_model_on_a_gpu_takes_images_on_the_cpu(grey):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    chosen = [Clean(), FGSM(2 / 255), PGD(steps=3, eps=2 / 255), PGD(steps=3, eps=0.1, restarts=2, norm="L2")]
    on_cpu = evaluate(network, *grey, attacks=chosen)
    on_gpu = evaluate(network.cuda(), *grey, attacks=chosen)
    assert [result.as_dict() | {"accuracy": 0} for result in on_gpu] == [
        result.as_dict() | {"accuracy": 0} for result in on_cpu
    ]
    assert all(abs(a.accuracy - b.accuracy) <= 0.02 for a, b in zip(on_cpu, on_gpu, strict=True))


def test_float_images_are_balanced_on_their_grey_levels():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(accuracy._balanced(images / 255, BaSS()), bass(images))


def test_the_model_is_measured_in_eval_mode_and_left_as_it_was(grey):
    class Noting(Brightness):
        modes = []

        def forward(self, images):
            self.modes.append(self.training)
            return super().forward(images)

    model = Noting().train()
    evaluate(model, *grey, attacks=[Clean()])
    assert model.training and len(Noting.modes) > 3 and not any(Noting.modes)


def test_nan_is_no_defence(grey):
    class Broken(Brightness):
        def forward(self, images):
            return super().forward(images) * float("nan")

    assert evaluate(Broken(), grey[0], torch.zeros_like(grey[1]), attacks=[Clean()])[0].accuracy == 0


class Stopped(Exception):
    pass


def stopping_after(count):
    """A ``progress`` that ends the run when so many items are done."""
    done = []

    def progress(items, *_):
        for item in items:
            if len(done) == count:
                raise Stopped
            yield item
            done.append(item)

    return progress


KEY = "these tests"  # for models of their own


def test_progress_counts_images(grey):
    seen = []

    def progress(items, what, *sizes):
        seen.append((what, *sizes))
        return items

    evaluate(Brightness(), *grey, protocols=["natural"], attacks=[PGD(steps=1)], batch_size=30, progress=progress)
    assert seen == [(f"natural {name}", 4, 100) for name in ("clean", "PGD-1")]


class TestCache:
    """What was measured once is not measured again."""

    attacks = [FGSM(2 / 255), PGD(steps=2, eps=20 / 255, step_size=0.0, restarts=2)]

    def test_a_second_call_does_not_meet_the_model(self, grey, tmp_path):
        model = Counting()
        first = evaluate(model, *grey, attacks=self.attacks, batch_size=30, cache=tmp_path, cache_key=KEY)
        model.calls = 0
        again = evaluate(model, *grey, attacks=self.attacks, batch_size=30, cache=tmp_path, cache_key=KEY)
        assert model.calls == 0 and again == first
        assert [result.from_cache for result in first] == [False] * 4 + [True] * 2, "as the images are balanced already"
        assert all(result.from_cache for result in again)
        assert all(torch.equal(one.correct, other.correct) for one, other in zip(first, again, strict=True))
        files = sorted(path.name.partition("-")[0] for path in tmp_path.glob("*.safetensors"))
        assert files == ["FGSM"] * 2 + ["PGD"] * 2 + ["clean"] * 2, "constant images are their own balanced twins"

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": 1},
            {"attacks": [PGD(steps=3)]},
            {"attacks": [PGD(steps=2, eps=0.1)]},
            {"labels": torch.zeros(100, dtype=torch.int64)},
            {"model": nn.Sequential(Counting())},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_another_question_is_measured(self, grey, tmp_path, change):
        asked = {"model": Counting(), "data": grey[0], "labels": grey[1], "attacks": [PGD(steps=2)]}
        asked |= {"protocols": ["natural"], "cache": tmp_path, "cache_key": KEY}
        evaluate(**asked)
        files = len(list(tmp_path.glob("*.safetensors")))
        evaluate(**{**asked, **change})
        assert len(list(tmp_path.glob("*.safetensors"))) > files

    def test_numpys_integers_are_the_same_question(self, grey, tmp_path):
        whole, kept = np.int64, {"cache": tmp_path, "cache_key": KEY}
        first = evaluate(Brightness(), *grey, attacks=[PGD(steps=2)], batch_size=30, seed=1, **kept)
        files = len(list(tmp_path.glob("*.safetensors")))
        asked = {"attacks": [PGD(steps=whole(2))], "batch_size": whole(30), "seed": whole(1), **kept}
        again = evaluate(Brightness(), *grey, **asked)
        assert again == first and len(list(tmp_path.glob("*.safetensors"))) == files
        write_json(tmp_path / "results.json", [result.as_dict() for result in again])
        assert json.loads((tmp_path / "results.json").read_text()) == [result.as_dict() for result in first]

    @pytest.mark.parametrize("stop_after", [1, 3, 8])
    def test_a_run_that_was_stopped_goes_on(self, grey, tmp_path, stop_after):
        asked = {"protocols": ["natural"], "attacks": self.attacks, "batch_size": 30}
        with pytest.raises(Stopped):
            evaluate(Brightness(), *grey, **asked, cache=tmp_path, cache_key=KEY, progress=stopping_after(stop_after))
        left = []

        def note(items, what, count, _images):
            left.extend(items)
            return items

        resumed = evaluate(Brightness(), *grey, **asked, cache=tmp_path, cache_key=KEY, progress=note)
        assert len(left) == 3 * 4 - stop_after
        assert [result.from_cache for result in resumed] == [stop_after == 8, False]
        whole = evaluate(Brightness(), *grey, **asked)
        assert resumed == whole and torch.equal(resumed[1].correct, whole[1].correct)

    def test_it_goes_on_with_another_batch_size(self, grey, tmp_path):
        asked = {"protocols": ["natural"], "attacks": self.attacks}
        kept = {"cache": tmp_path, "cache_key": KEY}
        with pytest.raises(Stopped):
            evaluate(Brightness(), *grey, **asked, **kept, batch_size=30, progress=stopping_after(6))
        resumed = evaluate(Brightness(), *grey, **asked, **kept, batch_size=45)
        assert resumed == evaluate(Brightness(), *grey, **asked) and resumed[0].accuracy == 0.96

    def test_a_damaged_file_is_measured_anew(self, grey, tmp_path):
        asked = {"protocols": ["natural"], "attacks": self.attacks, "cache": tmp_path, "cache_key": KEY}
        first = evaluate(Brightness(), *grey, **asked)
        for path in tmp_path.glob("PGD*"):
            path.write_bytes(path.read_bytes()[:100])
        with pytest.warns(UserWarning, match="PGD-2-2.*not usable"):
            assert evaluate(Brightness(), *grey, **asked) == first
        assert len(list(tmp_path.glob("PGD*.damaged"))) == 1


@pytest.mark.parametrize("batch_size", [7, 100])
def test_results_do_not_depend_on_batches(grey, batch_size):
    lucky = PGD(steps=1, eps=20 / 255, step_size=1 / 255, restarts=3)
    (result,) = evaluate(Brightness(), *grey, protocols=["natural"], attacks=[lucky], batch_size=batch_size)
    (other,) = evaluate(Brightness(), *grey, protocols=["natural"], attacks=[lucky], batch_size=31)
    assert torch.equal(result.correct, other.correct) and 0 < result.correct.sum() < 100


class TestWarnings:
    """A model whose numbers mean less than they seem to."""

    def evaluated(self, grey, model, *attacks):
        return evaluate(model, *grey, protocols=["natural"], attacks=attacks or [PGD(steps=2)])

    def test_probabilities(self, grey):
        with pytest.warns(UserWarning, match="returns probabilities.*second softmax"):
            self.evaluated(grey, nn.Sequential(Brightness(), nn.Softmax(1)))

    def test_randomised(self, grey):
        class Noisy(Brightness):
            def forward(self, images):
                return super().forward(images + 0.01 * torch.randn_like(images))

        with pytest.warns(UserWarning, match="randomised.*autoattack-rand"):
            self.evaluated(grey, Noisy())

    def test_batch_norm_in_training_mode(self, grey):
        class Trained(Brightness):
            def forward(self, images):
                return super().forward(images - images.mean(0) + 0.5)

        with pytest.warns(UserWarning, match="depends on the others in the batch"):
            self.evaluated(grey, Trained())

    def test_none_of_a_network_that_takes_one_size_of_batch(self, grey, recwarn):
        class Fixed(Brightness):
            def forward(self, images):
                return super().forward(images.view(50, *images.shape[1:]))

        evaluate(Fixed(), *grey, protocols=["natural"], attacks=[FGSM()], batch_size=50)
        assert not recwarn.list

    def test_zero_gradients(self, grey):
        class Staircase(Brightness):
            def forward(self, images):
                return super().forward((images * 8).round() / 8) + 0 * images.sum((1, 2, 3))[:, None]

        with pytest.warns(UserWarning, match="zero at 100 of 100 images"):
            self.evaluated(grey, Staircase())

    def test_none_for_a_plain_model_nor_of_gradients_that_nobody_takes(self, grey, recwarn):
        class Hard(Brightness):
            def forward(self, images):
                return super().forward(images).sign().detach()

        self.evaluated(grey, Brightness())
        self.evaluated(grey, Hard(), Clean())
        assert not recwarn.list


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": torch.full((100, 3, 8, 8), 200.0)}, "images.*200"),
        ({"labels": torch.full((100,), -1)}, "labels.*-1"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed: expected an integer ≥ 0, got -1"),
        ({"protocols": ["robustbench"]}, "protocols.*robustbench"),
        ({"data": torch.zeros(0, 3, 8, 8)}, "images"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels"),
    ],
)
def test_bad_input(grey, change, message):
    arguments = {"data": grey[0], "labels": grey[1], **change}
    with pytest.raises(ValueError, match=message):
        evaluate(Brightness(), **arguments)


def test_a_twin_is_made_only_for_attacks_that_use_it(few, monkeypatch):
    made = []
    monkeypatch.setattr("freqrob.evaluation.accuracy.fast_gradients", lambda model, _: made.append(model) or model)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
    evaluate(model, few.images, few.labels, protocols=["natural"], attacks=["clean"])
    assert not made
    evaluate(model, few.images, few.labels, protocols=["natural"], attacks=[PGD(2, eps=0.001)])
    assert made == [model]
