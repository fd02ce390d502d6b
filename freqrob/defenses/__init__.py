"""Training losses, one file a defence.

A defence is called with a model in train mode, images (N, C, H, W) in [0, 1] and labels (N,), and returns the loss. Its
``adversarial`` says that the best epoch is the most robust one, ``double_backward`` that it differentiates gradients.

A defence is a frozen dataclass whose fields are its settings, registered under the name that recipes know it by::

    @register_defense("my_defense")
    @dataclass(frozen=True)
    class MyDefense:
        weight: float = 1.0

        adversarial: ClassVar[bool] = False  # if true, eps is a field: the radius of the attack that is validated with
        double_backward: ClassVar[bool] = False

        def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor: ...

Other packages register theirs by the entry-point group ``freqrob.defenses``, and ``freqrob train my_defense_rn20``
finds them.
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
    "NeuralSimilarity",
    "Standard",
    "list_defenses",
    "register_defense",
]
