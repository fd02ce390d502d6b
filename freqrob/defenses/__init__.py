"""Training losses, one file a defence.

A defence is called with a model in train mode, images (N, C, H, W) in [0, 1] and labels (N,), and returns the loss. Its
``adversarial`` says that the best epoch is the most robust one, ``double_backward`` that it differentiates gradients.
"""

from freqrob.defenses.augmix import AugMix
from freqrob.defenses.fgsm import FGSM
from freqrob.defenses.grad_align import GradAlign
from freqrob.defenses.jafr import FGSMJaFR, FGSMJaFRMinus, JaFR, JaFRMinus
from freqrob.defenses.mart import MART
from freqrob.defenses.neural_similarity import NeuralSimilarity
from freqrob.defenses.pgd_at import PGDAT
from freqrob.defenses.standard import Standard
from freqrob.defenses.trades import TRADES

DEFENSES = {
    "standard": Standard,
    "pgd_at": PGDAT,
    "trades": TRADES,
    "mart": MART,
    "fgsm": FGSM,
    "grad_align": GradAlign,
    "jafr": JaFR,
    "jafr_minus": JaFRMinus,
    "fgsm_jafr": FGSMJaFR,
    "fgsm_jafr_minus": FGSMJaFRMinus,
    "augmix": AugMix,
    "neural_similarity": NeuralSimilarity,
}

__all__ = [
    "DEFENSES",
    "FGSM",
    "MART",
    "PGDAT",
    "TRADES",
    "AugMix",
    "FGSMJaFR",
    "FGSMJaFRMinus",
    "GradAlign",
    "JaFR",
    "JaFRMinus",
    "NeuralSimilarity",
    "Standard",
]
