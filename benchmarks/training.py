"""A training step of each defence against a straightforward loop of the same loss.

``freqrob`` is the trainer's step: ``Batches``, bf16 autocast, channels_last, ``freqrob.defenses``. ``plain`` is a loop
as in the papers' code: a DataLoader with torchvision's transforms, float32, contiguous tensors, and the loss as
published. Both make a batch from images in memory and take one SGD step of the same network. Candidates of a row are
timed in turn; times are medians. The last rows are parts of a step: making the batch; BaSS of the batch on the fly,
relative to a step of PGD-AT; ln B_low with its derivative, relative to a step of JaFR.

On a GPU `utilisation` is the rate of freqrob's convolutions and matrix products, attacks included, relative to the rate
of one large bf16 matrix product in the same run.
"""

from __future__ import annotations

import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.script import make_parser, parse, run
from benchmarks.timing import product_rate, quiet_sample
from freqrob.data import DATASETS, Batches, ImageSet
from freqrob.data.transforms import RandomBaSS
from freqrob.defenses.jafr import whole_batch_log_b_low
from freqrob.models import create_network
from freqrob.models.front_ends import with_front_ends
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance
from freqrob.training import Recipe
from freqrob.training.cost import TrainingStep, flops_of

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
PATIENCE = 30.0  # seconds to wait for quiet samples on the CPU
DEFENSES_MEASURED = ("standard", "pgd_at", "trades", "mart", "fgsm", "grad_align", "jafr", "fgsm_jafr", "augmix")


# The losses in plain PyTorch


def plain_attack(model: nn.Module, x: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    model.eval()
    adversarial = start
    for _ in range(STEPS):
        adversarial = adversarial.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(adversarial)), adversarial)
        adversarial = adversarial + STEP * gradient.sign()
        adversarial = torch.min(torch.max(adversarial, x - EPS), x + EPS).clamp(0, 1)
    model.train()
    return adversarial.detach()


def plain_standard(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def plain_pgd_at(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    start = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    return F.cross_entropy(model(plain_attack(model, x, start, lambda out: F.cross_entropy(out, y))), y)


def plain_trades(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.eval()

    def divergence(out: Tensor, clean: Tensor) -> Tensor:
        return F.kl_div(F.log_softmax(out, 1), F.softmax(clean, 1), reduction="sum")

    adversarial = plain_attack(model, x, x + 0.001 * torch.randn_like(x), lambda out: divergence(out, model(x)))
    logits = model(x)
    return F.cross_entropy(logits, y) + 6 / len(x) * divergence(model(adversarial), logits)


def plain_mart(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    start = x + 0.001 * torch.randn_like(x)
    adversarial = plain_attack(model, x, start, lambda out: F.cross_entropy(out, y))
    logits, logits_adversarial = model(x), model(adversarial)
    p, q = F.softmax(logits, 1), F.softmax(logits_adversarial, 1)
    two = torch.argsort(q, dim=1)[:, -2:]
    other = torch.where(two[:, -1] == y, two[:, -2], two[:, -1])
    loss = F.cross_entropy(logits_adversarial, y) + F.nll_loss(torch.log(1.0001 - q + 1e-12), other)
    true = torch.gather(p, 1, y[:, None])[:, 0]
    kl = F.kl_div(torch.log(q + 1e-12), p, reduction="none").sum(1)
    return loss + 5 / len(x) * torch.sum(kl * (1.0000001 - true))


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, create_graph: bool = False) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y), x, create_graph=create_graph)[0]


def plain_fgsm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    step = (1.25 * EPS * input_gradient(model, x, y).sign()).clamp(-EPS, EPS)
    return F.cross_entropy(model((x + step).clamp(0, 1)), y)


def plain_grad_align(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    here = input_gradient(model, x, y)
    there = input_gradient(model, x + torch.empty_like(x).uniform_(-EPS, EPS), y, create_graph=True)
    cosine = F.cosine_similarity(here.flatten(1), there.flatten(1), dim=1)
    return plain_fgsm(model, x, y) + 0.2 * (1 - cosine.mean())


def plain_b_low(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    amplitude = torch.fft.rfft2(input_gradient(model, x, y, create_graph=True)).abs().mean((0, 1))
    m = amplitude[: x.shape[-2] // 2 + 1] + 1e-5
    alpha = torch.linspace(1, -1, len(m), device=x.device) + 1e-5
    return ((m ** alpha[None, :]).prod(1).sum() + (m ** alpha[:, None]).prod(0).sum()).log()


def plain_jafr(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y) - 0.001 * plain_b_low(model, x, y)


def plain_fgsm_jafr(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return plain_fgsm(model, x, y) - 0.001 * plain_b_low(model, x, y)


def plain_augmix(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    from torchvision.transforms import AugMix

    mix, grey = AugMix(), (255 * x).to(torch.uint8)
    views = [torch.stack([mix(image) for image in grey]) / 255 for _ in range(2)]
    logits = model(torch.cat([x, *views])).chunk(3)
    p = [F.softmax(view, 1) for view in logits]
    log_m = torch.clamp((p[0] + p[1] + p[2]) / 3, 1e-7, 1).log()
    js = sum(F.kl_div(log_m, view, reduction="batchmean") for view in p) / 3
    return F.cross_entropy(logits[0], y) + 12 * js


# Steps


def our_batches(dataset: ImageSet, batch_size: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    batches = Batches(dataset, batch_size, device=device)
    return batches.from_step(0)


def plain_batches(dataset: ImageSet, batch_size: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip, ToPILImage, ToTensor

    augment = Compose([ToPILImage(), RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor()])
    pairs = [(image, label) for image, label in zip(dataset.images, dataset.labels, strict=True)]
    loader = torch.utils.data.DataLoader(
        pairs, batch_size, shuffle=True, drop_last=True,
        collate_fn=lambda some: (torch.stack([augment(image) for image, _ in some]), torch.stack([y for _, y in some])),
    )  # fmt: skip
    while True:
        for images, labels in loader:
            yield images.to(device), labels.to(device)


class PlainStep:
    """One training step as in the papers' code, taken by a call."""

    def __init__(self, loss: Callable, architecture: str, batches: Iterator, device: str) -> None:
        about = DATASETS["cifar10"]
        torch.manual_seed(0)
        normalize = {"name": "normalize", "mean": about.mean, "std": about.std}
        self.loss, self.batches = loss, batches
        self.model = with_front_ends(create_network(architecture), [normalize]).to(device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def __call__(self) -> None:
        loss = self.loss(self.model, *next(self.batches))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()


class LogBLow:
    """ln B_low of a given Jacobian, and its derivative."""

    def __init__(self, images: Tensor) -> None:
        self.jacobian = (1e-3 * torch.randn_like(images)).requires_grad_()

    def __call__(self) -> None:
        torch.autograd.grad(whole_batch_log_b_low(self.jacobian), self.jacobian)[0].sum().item()


def waited(call: Callable[[], object]) -> Callable[[], None]:
    """The call, followed by a synchronisation with the GPU."""

    def until_done() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return until_done


def median_ms(candidates: dict[str, Callable[[], None]], repeats: int, patience: float) -> dict[str, tuple[float, str]]:
    """Median milliseconds of each, and how many samples were undisturbed."""
    for call in candidates.values():
        call()
    times = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, call in candidates.items():
            times[name].append(quiet_sample(call, 1, time.monotonic() + patience / repeats))
    return {
        name: (1e3 * statistics.median(t for t, _ in samples), f"{sum(quiet for _, quiet in samples)}/{repeats}")
        for name, samples in times.items()
    }


def rows(
    architecture: str, batch_size: int, device: str, repeats: int, only: list[str], *,
    product: float | None = None, patience: float = 0.0,
) -> list[dict[str, object]]:  # fmt: skip
    """A row for each defence and each part; with the flop/s of a matrix product also the utilisation."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8 * batch_size, 3, 32, 32), dtype=torch.uint8, generator=generator)
    dataset = ImageSet(images, torch.randint(10, (len(images),), generator=generator), ())
    ours, plain = our_batches(dataset, batch_size, device), plain_batches(dataset, batch_size, device)
    found, took = [], {}

    def compare(what: str, candidates: dict[str, Callable[[], object]]) -> None:
        measured = median_ms(candidates, repeats, patience)
        (ms, quiet), (plain_ms, plain_quiet) = measured["freqrob"], measured["plain"]
        took[what] = ms
        found.append({
            "what": what, "ms": round(ms, 2), "images_per_s": round(1e3 * batch_size / ms, 1),
            "plain_ms": round(plain_ms, 2), "ratio": round(plain_ms / ms, 2), "undisturbed": f"{quiet} {plain_quiet}",
        })  # fmt: skip

    for name in only:
        torch.manual_seed(0)
        step = TrainingStep(Recipe(f"{name}_{architecture}", lr=0.01), ours, device)
        compare(name, {"freqrob": step, "plain": PlainStep(globals()[f"plain_{name}"], architecture, plain, device)})
        if product:
            found[-1]["utilisation"] = round(flops_of(step) / (took[name] / 1e3) / product, 4)
        print(found[-1], flush=True)
    compare("the batch alone", {"freqrob": waited(lambda: next(ours)), "plain": waited(lambda: next(plain))})
    print(found[-1], flush=True)
    images, _ = next(ours)
    bass, log_b_low = RandomBaSS(1.0), LogBLow(images)
    spectral = {
        "pgd_at": ("BaSS on the fly", waited(lambda: bass(images))),
        "jafr": ("ln B_low and its derivative", log_b_low),
    }
    for defense, (what, call) in spectral.items():
        if defense in took:
            ms, quiet = median_ms({what: call}, 5 * repeats, patience)[what]
            share = ms / took[defense]
            row = {"what": what, "ms": round(ms, 3), "of": defense, "share": round(share, 5), "undisturbed": quiet}
            found.append(row)
            print(found[-1], flush=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "training_cpu.json")
    parser.add_argument("--architecture", default="rn20")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=DEFENSES_MEASURED, default=list(DEFENSES_MEASURED))
    given = parse(parser, arguments)
    if given.quick:
        given.batch_size, given.repeats, given.only = 8, 1, given.only[:1]
    torch.set_num_threads(given.threads)
    circumstances = {"architecture": given.architecture, "batch_size": given.batch_size, "threads": given.threads}
    circumstances["device"], product = given.device, None
    if given.device == "cuda":
        torch.backends.cudnn.benchmark = True  # as in the trainer
        product = product_rate("cuda", torch.bfloat16, 8192)
        circumstances |= {"gpu": torch.cuda.get_device_name(), "product_tflops": round(product / 1e12, 1)}
    found = rows(
        given.architecture, given.batch_size, given.device, given.repeats, given.only, product=product,
        patience=PATIENCE if given.device == "cpu" and not given.quick else 0.0,
    )  # fmt: skip
    command = shlex.join(["python", "-m", "benchmarks.training", *(sys.argv[1:] if arguments is None else arguments)])
    write_json(given.out, {**provenance(command), **circumstances, "rows": found})


if __name__ == "__main__":
    run(main)
