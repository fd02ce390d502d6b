"""The architectures' published sizes, a card, and networks whose batch norms are not all alike."""

import torch

from freqrob.models.cards import Card

PARAMETERS = {
    "rn20": 269_722,  # He et al. 2016, Table 6: 0.27 M
    "rn18": 11_173_962,  # 11.17 M
    "rn50": 23_520_842,  # 23.52 M
    "prn18": 11_172_170,  # 11.17 M
    "prn18_jafr": 11_171_146,  # without the final batch norm
    "wrn34": 46_160_474,  # 46.16 M
    "wrn28": 36_479_194,  # Zagoruyko and Komodakis 2016, Table 4: 36.5 M
    "wrn40_2": 2_243_546,  # Zagoruyko and Komodakis 2016, Table 4: 2.2 M
    "resnext29": 6_807_882,  # 4×32d: 6.81 M
    "vgg19": 20_040_522,  # kuangliu/pytorch-cifar's VGG19: 16 convolutions with bias, batch norms, one linear layer
    "resnet18": 11_181_642,  # torchvision's: 11,689,512 with 1,000 classes
    "resnet50": 23_528_522,  # torchvision's: 25,557,032 with 1,000 classes
    "densenet": 769_162,  # Huang et al. 2017, Table 2: DenseNet-BC, L = 100, k = 12, 0.8 M
}
CARD = Card("pgd_at_rn20", "rn20", recipe={"epochs": 2}, results=[{"protocol": "natural", "accuracy": 0.5}])


def randomise(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Batch norms that a swapped or forgotten one would betray, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            module.num_batches_tracked.fill_(7)
    return network.eval()
