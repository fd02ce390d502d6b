"""Spectrum of the minimal adversarial perturbations of models: Fig. 4 of Li et al. for any models.

Each model is attacked on the same images with the same target labels, from starts found by PGD. The smallest
perturbations are compared by their mean |DFT|², its radial profile, and their size against the half-power frequency
f_0.5. Robust models that rely on low frequencies have large perturbations with a low f_0.5; white noise has 0.396
cycles/pixel.

OUT gets boundary_spectrum.png and .svg (the figure), .csv (a row for each model) and .json (everything, with its
provenance). Every batch is cached in OUT/cache: the same command resumes an interrupted run, and runs with more models
or --repeats reuse earlier results.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqrob_foolbox import MinimalPerturbations, MinimalPerturbationSearch

    from freqrob.data import ImageSet
    from freqrob.diagnostics import MinimalPerturbationSpectrum

EXAMPLES = """examples:
  python plugins/foolbox/boundary_spectrum.py standard_rn20 pgd_at_rn20 --attack fmn
      two models that freqrob includes, on the first 20 test images; takes a minute
  python plugins/foolbox/boundary_spectrum.py standard_rn20 pgd_at_rn20 robustbench:Carmon2019Unlabeled \\
      --data ./data --images 1000 --repeats 3
      the settings of Li et al.
"""
KINDS = ("csv", "json", "png", "svg")
ATTACKS = {  # module, class and description
    "bb": ("freqrob_foolbox", "LinfinityBrendelBethgeAttack", "L∞ Brendel-Bethge, the attack of Li et al."),
    "bb_l2": ("freqrob_foolbox", "L2BrendelBethgeAttack", "L2 Brendel-Bethge"),
    "fmn": ("foolbox.attacks", "LInfFMNAttack", "L∞ fast minimum norm"),
    "fmn_l2": ("foolbox.attacks", "L2FMNAttack", "L2 fast minimum norm"),
    "ddn": ("foolbox.attacks", "DDNAttack", "L2 decoupled direction and norm"),
    "cw": ("foolbox.attacks", "L2CarliniWagnerAttack", "L2 Carlini-Wagner"),
    "hsj": ("foolbox.attacks", "HopSkipJumpAttack", "HopSkipJump, L2, uses only the predicted class"),
    "boundary": ("foolbox.attacks", "BoundaryAttack", "Boundary, L2, uses only the predicted class"),
}
HALF_POWER = ("half_power_frequency", "half_power_low", "half_power_high", "exact_half_power_frequency")
CURVES = ("frequencies", "profile", "radii", "cumulative", "power")
ROW = ("model", "images", "successes", "mean_distance", "deviation", "half_success", *HALF_POWER)
SUMMARY = (
    "{model}: {successes} of {images} images, mean distance {mean_distance:.4g}, f_0.5 = "
    "{half_power_frequency:.3f} ({half_power_low:.3f} to {half_power_high:.3f}) cycles/pixel"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options, shlex.join(["python", "plugins/foolbox/boundary_spectrum.py", *(arguments or sys.argv[1:])]))
    except KeyboardInterrupt:
        print(f"Stopped. Finished batches are in {options.out / 'cache'}; the same command resumes.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="a name (`freqrob models` lists them), NAME=weights.pt, "
        "robustbench:NAME, timm:NAME, torchvision:NAME, or package.module:function")  # fmt: skip
    add("--data", type=Path, metavar="DIR", help="folder of the data set; by default 20 sample images of CIFAR-10")
    add("--dataset", default="cifar10", help="data set; default: %(default)s")
    add("--threat-model", default="Linf", help="threat model of the models; default: %(default)s")
    add("--model-dir", type=Path, default=Path("models"), metavar="DIR", help="of trained models; default: %(default)s")
    add("--images", type=int, default=20, metavar="N", help="use the first N test images; default: %(default)s; the "
        "paper: 1000")  # fmt: skip
    attacks = "; ".join(f"{name}: {description}" for name, (*_, description) in ATTACKS.items())
    add("--attack", choices=ATTACKS, default="bb", metavar="NAME", help=f"default: %(default)s. {attacks}")
    add("--steps", type=int, metavar="N", help="steps of the attack; by default the attack's (bb: 1000)")
    add("--repeats", type=int, default=1, metavar="N", help="runs from different starts; each image's smallest "
        "perturbation is kept; default: %(default)s")  # fmt: skip
    add("--untargeted", action="store_true", help="attack towards any wrong class, not another image's label")
    add("--batch-size", type=int, default=20, metavar="N", help="images at a time; default: %(default)s")
    add("--seed", type=int, default=0, help="random seed of targets, starts and bootstrap; default: %(default)s")
    add("--device", default="auto", help="cpu, cuda, cuda:1, …; default: a GPU if there is one")
    add("--out", type=Path, default=Path("boundary_spectrum"), metavar="OUT", help="folder; default: %(default)s")
    return parser


def _run(options: argparse.Namespace, command: str) -> None:
    from freqrob_foolbox import MinimalPerturbationSearch

    from freqrob.cli.measuring import usable_device
    from freqrob.cli.progress import prefixed, progress_bars
    from freqrob.models.sources import open_model
    from freqrob.runtime.files import check_file, write_csv, write_json
    from freqrob.runtime.parameters import check_counts
    from freqrob.runtime.provenance import provenance

    if len(set(options.models)) < len(options.models):
        raise ValueError(f"models: expected each once, got {' '.join(options.models)}")
    files = [options.out / f"boundary_spectrum.{kind}" for kind in KINDS]
    for path in files:
        check_file(path)
    device, given = usable_device(options.device), {} if options.steps is None else {"steps": options.steps}
    check_counts(**given)
    module, kind, _ = ATTACKS[options.attack]
    attack = getattr(import_module(module), kind)(**given)
    search = MinimalPerturbationSearch(
        attack, targeted=not options.untargeted, repeats=options.repeats, seed=options.seed,
        batch_size=options.batch_size,
    )  # fmt: skip
    places = options.model_dir, options.dataset, options.threat_model
    networks = {spec: open_model(spec, *places).to(device) for spec in options.models}
    spectra, details, left_out = {}, [], {}
    with progress_bars() as (progress, log):
        images = _images(options, progress)
        for spec, network in networks.items():
            perturbations = search(
                network, images.tensor, images.labels, cache=options.out / "cache", progress=prefixed(progress, spec)
            )  # fmt: skip
            try:
                spectra[spec] = analyze(perturbations, images, search)
            except ValueError as error:
                left_out[spec] = str(error)
                log(f"{spec} is left out: {error}")
            else:
                details.append(describe(spec, perturbations, spectra[spec]))
                log(SUMMARY.format(**details[-1]))
    if not spectra:
        raise ValueError(f"models: {left_out[options.models[0]]}")
    settings = {
        "attack": repr(attack), "images": len(images), "targeted": search.targeted, "repeats": search.repeats,
        "source": f"{options.dataset} test" if options.data else "CIFAR-10's sample images",
        "batch_size": search.batch_size, "seed": search.seed, "left_out": left_out,
    }  # fmt: skip
    write_csv(files[0], details, ROW)
    write_json(files[1], {"provenance": provenance(command), "settings": settings, "models": details})
    draw(options.out, spectra)
    print("Wrote", *(path for path in files if path.is_file()))


def _images(options: argparse.Namespace, progress: Any) -> ImageSet:
    from freqrob.data import load_dataset
    from freqrob.data.samples import sample_images

    if options.data is None and options.dataset != "cifar10":
        raise ValueError(f"data: expected the folder of {options.dataset}, because the sample images are CIFAR-10's")
    images = load_dataset(options.dataset, "test", options.data, progress=progress) if options.data else sample_images()
    if not 1 <= options.images <= len(images):
        hint = "" if options.data else " without --data"
        raise ValueError(f"images: expected 1 to {len(images)}{hint}, got {options.images}")
    return images[: options.images]


def analyze(
    perturbations: MinimalPerturbations, images: ImageSet, search: MinimalPerturbationSearch
) -> MinimalPerturbationSpectrum:
    """The spectrum of the perturbations. Raises ValueError if there are none."""
    from freqrob_foolbox import analyze_spectrum

    from freqrob.data.datasets import to_pixels
    from freqrob.diagnostics import MinimalPerturbationSpectrum

    if not perturbations.success.any():
        raise ValueError("the attack found no perturbation of any image; more --steps may help")
    clean = to_pixels(images.tensor)[perturbations.success]
    spectrum = analyze_spectrum(perturbations.perturbed[perturbations.success], clean, seed=search.seed)
    return MinimalPerturbationSpectrum.of(perturbations, spectrum, search)


def describe(model: str, perturbations: MinimalPerturbations, measured: MinimalPerturbationSpectrum) -> dict[str, Any]:
    """The JSON content for a model, starting with its table row; distances of images without success are None."""
    distances = perturbations.distances[perturbations.success]
    return {
        "model": model,
        "images": measured.images,
        "successes": len(distances),
        "mean_distance": measured.mean,
        "deviation": measured.deviation,
        "half_success": measured.half_success,
        **{name: getattr(measured, name) for name in HALF_POWER},
        **{name: getattr(measured, name).tolist() for name in CURVES},
        "distances": [distance if math.isfinite(distance) else None for distance in perturbations.distances.tolist()],
        "targets": perturbations.classes.tolist(),
        "starts": perturbations.starts.tolist(),
    }


def draw(folder: Path, models: Mapping[str, MinimalPerturbationSpectrum]) -> None:
    """Draw mean spectra, radial profiles and size against f_0.5 as in Li et al., Fig. 4; a failure is a warning.

    Writes boundary_spectrum.png and .svg; those of an earlier run are removed first.
    """
    from freqrob.diagnostics.drawing import Panel, Picture, Scale, logarithmic, shared_limits, styles
    from freqrob.diagnostics.minimal_perturbation import (
        perturbation_map,
        plot_perturbation_profiles,
        plot_perturbation_sizes,
        plot_perturbation_spectrum,
    )
    from freqrob.report import figures
    from freqrob.runtime.figures import drawing

    for kind in ("png", "svg"):
        (folder / f"boundary_spectrum.{kind}").unlink(missing_ok=True)
    with drawing("boundary_spectrum"):
        limits = shared_limits([perturbation_map(spectrum) for spectrum in models.values()], span=1e5)
        legend = styles(models)
        maps = [
            Panel(name, partial(plot_perturbation_spectrum, measured=spectrum, limits=limits))
            for name, spectrum in models.items()
        ]
        of_all = [
            Panel(title, partial(plot, models=models, styles=legend))
            for title, plot in (
                ("radial profiles", plot_perturbation_profiles),
                ("mean size against half-power frequency", plot_perturbation_sizes),
            )
        ]
        scale = Scale(logarithmic(limits), "mean |DFT|² ÷ its mean over the map")
        picture = Picture("boundary_spectrum", "", [*maps, *of_all], legend=legend, scale=scale)
        figures.save(picture, folder)


if __name__ == "__main__":
    from freqrob.runtime.terminal import lenient_output

    with lenient_output():
        sys.exit(main())
