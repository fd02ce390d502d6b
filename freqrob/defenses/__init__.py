"""Training losses, one file per defence.

A defence is called with a model in train mode, images (N, C, H, W) in [0, 1] and labels (N,), and returns the loss. If
``adversarial``, the epoch with the highest robust accuracy is kept, else the most accurate one; if ``double_backward``,
the loss depends on a gradient, which is differentiated again.

A defence is a frozen dataclass with its settings as fields, registered under its name in recipes::

    @register_defense("my_defense")
    @dataclass(frozen=True)
    class MyDefense:
        weight: float = 1.0

        adversarial: ClassVar[bool] = False  # if true, eps is a field: the radius of the validation attack
        double_backward: ClassVar[bool] = False

        def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor: ...

A defence whose loss has parameters of its own, such as a readout, has a method ``make_parts(model)`` that returns them
as a module, the fourth argument of each call. They are trained, checkpointed and resumed with the network, but not
saved with it.

Other packages register theirs by the entry-point group ``freqrob.defenses``, and ``freqrob train my_defense_rn20``
finds them.
"""

from freqrob.defenses.augmix import AugMix
from freqrob.defenses.fgsm import FGSM
from freqrob.defenses.grad_align import GradAlign
from freqrob.defenses.jafr import FGSMJaFR, FGSMJaFRMinus, JaFR, JaFRMinus
from freqrob.defenses.mart import MART
from freqrob.defenses.neural_response import NeuralResponse
from freqrob.defenses.neural_similarity import NeuralSimilarity
from freqrob.defenses.pgd_at import PGDAT
from freqrob.defenses.standard import Standard
from freqrob.defenses.trades import TRADES
from freqrob.models.registry import DEFENSES, list_defenses, register_defense

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
    "NeuralResponse",
    "NeuralSimilarity",
    "Standard",
    "list_defenses",
    "register_defense",
]
