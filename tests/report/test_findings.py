"""What the report says in sentences: findings and caveats."""

import torch

from freqrob.diagnostics import JacobianSpectrum
from freqrob.report.findings import caveats, findings
from freqrob.report.records import MeasurementRecord, ModelRecord, Origin, Records
from freqrob.report.runs import read_runs
from freqrob.report.summary import columns
from tests.support.measurements import ABOUT, corrupted, evaluation, row
from tests.support.reports import accuracy, text_of, unlike_runs


def said(*models):
    """The findings of models given by their accuracies."""
    records = Records([ModelRecord(f"m{n}", accuracies=list(found)) for n, found in enumerate(models)], {}, [])
    return [text_of(sentence) for sentence in findings(records, columns(records.models))]


def test_what_was_not_measured_alike_is_not_compared(tmp_path):
    records = read_runs([unlike_runs(tmp_path)], cards=False)
    said = [text_of(sentence) for sentence in findings(records, columns(records.models))]
    assert not [sentence for sentence in said if sentence.startswith(("frev", "f0.5"))], said
    assert [sentence for sentence in said if sentence.startswith("ln Blow")], "was measured alike"
    assert "for 0 of 1 models" in next(sentence for sentence in said if "on the high than on the low" in sentence)
    (caveat,) = [text_of(one) for one in caveats(records) if "different conditions" in one]
    assert "in band_accuracy, fourier_heatmap, hybrid, loss_landscape, minimal_perturbation: compare" in caveat


def test_who_has_the_least_is_all_of_them():
    text = said([accuracy(0.36)], [accuracy(0.0)], [accuracy(0.2)], [accuracy(0.0)])[0]
    assert text.endswith(". m1, m3 have the least, 0.0 %.")


def test_gradient_masking_is_the_first_caveat(tmp_path):
    run = evaluation(tmp_path / "r.json", [row("one", 0.5)], masking={"one": {"masking_suspected": True}})
    assert "Gradient masking is suspected" in next(caveats(read_runs([run], cards=False)))


def test_the_most_robust_is_named_with_those_that_cannot_be_told_from_it():
    first, *_ = said([accuracy(0.36)], [accuracy(0.355)], [accuracy(0.1)])
    assert first == (
        "Under PGD-20, L∞, ε = 8/255 (protocol natural; 10,000 images of cifar10 test, seed 0, step 2/255), m0 "
        "classifies 36.0 % of the images correctly (95 % interval 35.1 to 36.9 %), the most of 3 models; intervals "
        "that overlap with it: m1. m2 has the least, 10.0 %."
    )
    assert "overlap" not in said([accuracy(0.36)], [accuracy(0.3)])[0]
    assert said([accuracy(0.36, images=20)])[0].endswith("(95 % interval 18.9 to 57.7 %).")


def test_only_what_was_measured_alike_is_compared():
    text = said([accuracy(0.36)], [accuracy(0.9, images=20)], [accuracy(0.1)])[0]
    assert "m0 classifies 36.0 %" in text and "of 2 models" in text and "m1" not in text


def test_corruptions_are_summed_up(tmp_path):
    records = read_runs([corrupted(tmp_path / "c.json", one=0.5, two=0.75)], cards=False)
    (sentence,) = map(text_of, findings(records, columns(records.models)))
    assert (
        "two is the best of 2 models with 75.0 %; the hardest type is gaussian noise, with a mean of 62.5" in sentence
    )


def test_what_the_protocol_decides_is_said_only_beyond_noise():
    far = [accuracy(0.3, "bass"), accuracy(0.2), accuracy(0.01, "natural+bass")]
    assert "m0 has 30.0 % under bass, 20.0 % under natural, 1.0 % under natural+bass" in said(far)[1]
    near = [accuracy(0.3, "bass"), accuracy(0.299), accuracy(0.301, "natural+bass")]
    assert len(said(near)) == 1


def test_the_strongest_attack_stands_for_robustness():
    assert said([accuracy(0.3), accuracy(0.2, attack="AutoAttack"), accuracy(0.4, attack="FGSM")])[0].startswith(
        "Under AutoAttack"
    )


def test_a_relation_with_robustness_needs_five_models_and_a_small_p():
    def told(levels, shares):
        models = [ModelRecord(f"m{n}", accuracies=[accuracy(share)]) for n, share in enumerate(shares)]
        for model, level in zip(models, levels, strict=True):
            jacobian = JacobianSpectrum(torch.ones(32, 17), float(level), 128, 500)
            model.measurements["jacobian"] = MeasurementRecord(jacobian, Origin(None, ABOUT))
        return next(text_of(s) for s in findings(Records(models, {}, []), columns(models)) if "B<sub>" in s)

    shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert "(m0) to 8.00 (m5); it rises with robust accuracy (Spearman’s ρ = 1.00 over 6" in told(range(3, 9), shares)
    assert "it falls with robust accuracy (Spearman’s ρ = −1.00" in told(range(8, 2, -1), shares)
    assert "is not significant" in told([3, 8, 4, 7, 5, 6], shares)
    assert told([3, 4, 5, 6], shares[:4]).endswith("ranges from 3.00 (m0) to 6.00 (m3).")
    assert told([3, 3, 3], shares[:3]).endswith("is 3.00 for all of 3 models.")
