"""JaFR: Jacobian frequency regularisation, of standard and of FGSM adversarial training."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.defenses.fgsm import FGSM
from freqrob.models.registry import register_defense
from freqrob.models.state import bare
from freqrob.runtime.parameters import Weight, checked
from freqrob.spectral.jacobian import log_b_low
from freqrob.spectral.ops import mean_amplitude


@register_defense("jafr")
@checked
@dataclass(frozen=True)
class JaFR:
    """CE(f(x), y) − λ · ln B_low(∇ₓ CE(f(x), y)), with one B_low for the whole batch; the network is in train mode.

    λ > 0 makes the network rely on low frequencies, λ < 0 (the paper's JaFR(−)) on high ones. The authors' code
    computes the gradient in a second forward pass on the same batch, whose only effect is to update batch norm's
    running statistics twice; here the loss and its gradient share one pass.

    Source: Chan et al., IJCAI 2022; alvinchangw/JaFR_IJCAI2022.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    >>> loss = JaFR(weight=0.01)(network, torch.rand(2, 3, 8, 8), torch.tensor([0, 2]))
    >>> loss.backward()  # through the gradient with respect to the images
    >>> network[0].weight.grad.shape
    torch.Size([4, 3, 3, 3])
    """

    weight: Weight = 0.001

    adversarial: ClassVar[bool] = False
    double_backward: ClassVar[bool] = True

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        images = images.detach().requires_grad_()
        loss = F.cross_entropy(model(images), labels)
        return loss - self.weight * whole_batch_log_b_low(jacobian(loss, images))


@register_defense("jafr_minus")
@checked
@dataclass(frozen=True)
class JaFRMinus(JaFR):
    """``JaFR`` with λ < 0: towards high frequencies.

    >>> JaFRMinus().weight
    -0.001
    """

    weight: Weight = -0.001


@register_defense("fgsm_jafr")
@checked
@dataclass(frozen=True)
class FGSMJaFR(FGSM):
    """FGSM adversarial training with ``JaFR``'s regulariser of the clean images: loss − λ · ln B_low.

    Source: Chan et al., IJCAI 2022; alvinchangw/JaFR_IJCAI2022. The attack and the regulariser share a gradient.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    >>> FGSMJaFR(weight=0.01)(network, torch.rand(2, 3, 8, 8), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    weight: Weight = 0.001

    double_backward: ClassVar[bool] = True

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        images = images.detach().requires_grad_()
        gradient = jacobian(F.cross_entropy(bare(model)(images), labels), images)
        loss = F.cross_entropy(model(self.attacked(images, gradient)), labels)
        return loss - self.weight * whole_batch_log_b_low(gradient)


@register_defense("fgsm_jafr_minus")
@checked
@dataclass(frozen=True)
class FGSMJaFRMinus(FGSMJaFR):
    """``FGSMJaFR`` with λ < 0: towards high frequencies.

    >>> FGSMJaFRMinus().weight
    -0.001
    """

    weight: Weight = -0.001


def jacobian(loss: Tensor, images: Tensor) -> Tensor:
    """∇ₓ of a loss, (N, C, H, W), itself differentiable with respect to the parameters."""
    return torch.autograd.grad(loss, images, create_graph=True)[0]


def whole_batch_log_b_low(gradient: Tensor) -> Tensor:
    """ln B_low of a whole batch's Jacobian, from each rank's share of the images."""
    amplitude = mean_amplitude(gradient)
    if dist.is_available() and dist.is_initialized():
        total, ranks = amplitude.detach().clone(), dist.get_world_size()
        dist.all_reduce(total)
        # The other ranks' part is a constant, so the mean of the ranks' gradients is the whole batch's. It is divided
        # by ``ranks`` again because the whole batch's loss is a mean over that many times more images.
        amplitude = (amplitude + (total / ranks - amplitude).detach()) / ranks
    return log_b_low(amplitude)
