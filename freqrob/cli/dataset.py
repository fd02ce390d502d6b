"""`freqrob dataset`: corrupted, balanced and hybrid data sets as files, and their spectra."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table

from freqrob.cli import options
from freqrob.cli.measuring import FOLDER, INTERRUPTED, Images, named_dataset, usable_device
from freqrob.cli.printing import command_line, print_line, print_resume_hint, print_table
from freqrob.cli.progress import progress_bars
from freqrob.runtime.files import check_folder
from freqrob.runtime.parameters import check_choices, check_integers

if TYPE_CHECKING:
    from freqrob.data import ImageSet
    from freqrob.data.corruption_arrays import CorruptionArrays
    from freqrob.diagnostics import Spectrum
    from freqrob.spectral.reference import Weighting

dataset_group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Write corrupted, balanced and hybrid data sets, and measure spectra.",
)

PHOTOGRAPHS = ("imagenet", FOLDER)
Cifar = Annotated[str, typer.Option(help="cifar10 or cifar100.")]
Corruptible = Annotated[str, typer.Option(help="cifar10, cifar100, imagenet, or folder for photographs.")]
DatasetName = Annotated[str, typer.Option(help="Data set; its test split is used.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")]


def corrupt(
    out: Out,
    data: options.DataDir = Path("data"),
    dataset: Corruptible = "cifar10",
    types: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only this type; repeatable. All 19 by default.")
    ] = None,
    bass: Annotated[
        bool, typer.Option("--bass", help="Corrupt the balanced images (CIFAR10-B-C), not the natural ones.")
    ] = False,
    seed: options.Seed = 0,
    frost: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of photographs frost1 … frost5 (.png, .jpg).")
    ] = None,
    device: options.Device = "auto",
    download: options.Download = False,
    classes_file: options.ClassesFile = None,
    labels_file: options.LabelsFile = None,
    resize: Annotated[int | None, typer.Option(metavar="N", help="Resize photographs to this shorter side.")] = 256,
    crop: Annotated[int | None, typer.Option(metavar="N", help="Then crop the central square with this side.")] = 224,
    interpolation: options.Interpolation = "bilinear",
) -> None:
    """Corrupt the test set as in CIFAR-10-C or ImageNet-C: 19 types with 5 severities each, in the benchmark's layout.

    Examples:

    - `freqrob dataset corrupt --data ./data --out ./data/cifar10-c`
    - `freqrob dataset corrupt --data ./data --out ./data/cifar10-b-c --bass --type fog --type contrast`
    - `freqrob dataset corrupt --dataset folder --data ./photographs --out ./photographs-c`

    Published numbers are measured on the published arrays (https://zenodo.org/records/2535967), which have the same
    parameters but other random numbers. `generated.json`, in the same folder, records how the files were made. Each
    type is one file (154 MB) with all severities, in colour; with `--grayscale`, other commands convert the images when
    they read them. Photographs become JPEG files in `<type>/<severity>/<class>/`. Ctrl-C keeps the finished types; run
    the same command to resume.

    **frost** needs photographs of ice that freqrob may not ship: run `pip install imagecorruptions-imaug`, or pass
    `--frost DIR`. Without photographs, frost is left out, but `--type frost` is an error.
    """
    check_folder(out)
    from freqrob.data import balance
    from freqrob.data.corruption_arrays import PUBLISHED, write_corruptions
    from freqrob.data.corruption_folders import write_corruption_folders
    from freqrob.data.corruptions import CORRUPTIONS

    check_choices((*PUBLISHED, *PHOTOGRAPHS), dataset=dataset)
    is_files = dataset in PHOTOGRAPHS
    if bass and is_files:
        raise ValueError(f"bass: only for {', '.join(PUBLISHED)}, got --bass for photographs")
    sides = (resize, crop) if is_files else (None, None)
    images = Images(dataset, "test", data, download, None, classes_file, labels_file, *sides, interpolation)
    given = {"--dataset": dataset, "--type": types, "--seed": seed, **images.as_options()}
    types = types or _possible(list(CORRUPTIONS), frost)
    chosen = images.read().images
    if not is_files:
        chosen = replace(chosen, images=chosen.tensor.to(usable_device(device)))
    about = {"dataset": dataset, "bass": "amplitude" if bass else None}
    write = write_corruption_folders if is_files else write_corruptions
    try:
        with progress_bars() as (progress, _log):
            made = write(
                balance(chosen) if bass else chosen, out, types, about=about, seed=seed, frost=frost,
                command=command_line("dataset", given, "corrupt", *(["--bass"] if bass else [])), progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        print_resume_hint(f"Finished types are in {out}", _has_types(out, types))
        raise typer.Exit(INTERRUPTED) from None
    before = f", {len(types) - len(made)} already there" if len(made) < len(types) else ""
    print_line(f"Wrote {len(made)} of {len(types)} types{before}: {out}")


def _has_types(folder: Path, types: list[str]) -> bool:
    """Whether a folder has an array or a folder of one of these types."""
    return any((folder / f"{name}.npy").is_file() or (folder / name).is_dir() for name in types)


def _possible(types: list[str], frost: Path | None) -> list[str]:
    """Leave out frost, with a message, if its photographs are missing."""
    from freqrob.data.corruptions import find_frost

    try:
        find_frost(frost)
    except FileNotFoundError as error:
        if frost is not None:
            raise
        note = f"Means will be over {len(types) - 1} of {len(types)} types."
        print_line(f"Left out: {error}. {note}", "yellow", stderr=True)
        return [name for name in types if name != "frost"]
    return types


def bass(
    out: Out,
    data: options.DataDir = Path("data"),
    dataset: Cifar = "cifar10",
    weighting: Annotated[
        str, typer.Option(help="amplitude: the authors' code; power: the printed equations.")
    ] = "amplitude",
    download: options.Download = False,
) -> None:
    """Write CIFAR-B: CIFAR-10 or CIFAR-100 balanced by BaSS, in the original files' format.

    Examples:

    - `freqrob dataset bass --data ./data --out ./cifar-b`
    - `freqrob dataset bass --data ./data --out ./cifar-b-power --dataset cifar100 --weighting power`

    Programs that read `cifar-10-batches-py/` can read the new folder unless they check the original MD5 sums, as
    torchvision does. `freqrob.data.load_cifar_b` checks the new sums, which are in `cifar_b.json`.
    """
    check_folder(out)
    from freqrob.data.cifar_b import write_cifar_b

    given = {"--dataset": dataset, "--weighting": weighting}
    with progress_bars() as (progress, _log):
        folder = write_cifar_b(
            data, out, dataset, weighting=cast("Weighting", weighting), download=download,
            command=command_line("dataset", given, "bass"), progress=progress,
        )  # fmt: skip
    print_line(f"Wrote {folder}")


def hybrid(
    out: Out,
    data: options.DataDir = Path("data"),
    dataset: DatasetName = "cifar10",
    grayscale: options.Grayscale = False,
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Use the first N test images, 0 for all; up to 1000 by default.")
    ] = None,
    frequencies: Annotated[
        list[float] | None,
        typer.Option(
            "--frequency",
            parser=options.fraction,
            metavar="F",
            help="Mixing frequency in cycles/pixel, 0 to 0.707; repeatable. Li et al.'s 18 by default.",
        ),
    ] = None,
    seed: options.Seed = 0,
    floats: Annotated[
        bool, typer.Option("--float", help="Write float32 in [0, 1], four times the size of uint8.")
    ] = False,
    png: Annotated[int, typer.Option(metavar="N", help="Also write a contact sheet with N rows, hybrid.png.")] = 0,
    download: options.Download = False,
) -> None:
    """Write hybrid images: low frequencies of one test image, high frequencies of one from another class.

    Examples:

    - `freqrob dataset hybrid --data ./data --out ./hybrid --png 12`
    - `freqrob dataset hybrid --data ./data --out ./hybrid --frequency 0.1 --frequency 0.2 --images 0`

    `hybrid.npz` has `images` (frequencies, N, C, H, W), `frequencies`, `low_labels`, `high_labels` and `partners`, the
    indices of the images that give the high frequencies. With the same seed and images, `freqrob diagnose` measures the
    reversal frequency on these images (without `--float` they are rounded). `hybrid.json` records how they were made.
    """
    check_folder(out)
    dataset = named_dataset(dataset, grayscale)
    from freqrob.data import load_dataset
    from freqrob.data.hybrid import MIXING_FREQUENCIES, write_hybrids

    check_integers(0, png=png, images=images or 0)
    given = {"--dataset": dataset, "--images": images, "--frequency": frequencies, "--seed": seed, "--png": png}
    with progress_bars() as (progress, _log):
        chosen = load_dataset(dataset, "test", data, download=download, progress=progress)
        if images and images > len(chosen):
            raise ValueError(f"images: expected at most {len(chosen)} (size of the test set), got {images}")
        path = write_hybrids(
            chosen[: 1000 if images is None else images or None], out, seed=seed, floats=floats, sheet=png,
            frequencies=frequencies or MIXING_FREQUENCIES, about={"dataset": dataset, "split": "test"},
            command=command_line("dataset", given, "hybrid", *(["--float"] if floats else [])), progress=progress,
        )  # fmt: skip
    print_line(f"Wrote {path}")


def spectrum(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")] = Path("spectra"),
    data: options.DataDir = Path("data"),
    dataset: DatasetName = "cifar10",
    grayscale: options.Grayscale = False,
    bass: Annotated[bool, typer.Option("--bass", help="Also measure the balanced images.")] = False,
    corruptions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also measure these corrupted images and their changes.")
    ] = None,
    download: options.Download = False,
    classes_file: options.ClassesFile = None,
    labels_file: options.LabelsFile = None,
    resize: Annotated[int | None, typer.Option(metavar="N", help="Resize photographs to this shorter side.")] = 256,
    crop: Annotated[int | None, typer.Option(metavar="N", help="Then crop the central square with this side.")] = 224,
    interpolation: options.Interpolation = "bilinear",
) -> None:
    """Measure spectra of a test set: power law, 80/20 boundary, entropy and ln B_low.

    Examples:

    - `freqrob dataset spectrum --data ./data --bass`
    - `freqrob dataset spectrum --data ./data --corruptions ./data/cifar10-c --out ./spectra`
    - `freqrob dataset spectrum --dataset folder --data ./photographs --bass`

    Writes `natural`, `bass` and `<type>` as arrays (`.npz`) and JSON; `<type>_change` is the spectrum of a type's
    change x' − x, whose ln B_low is in Table 1 of Chan et al. (2022). Corruptions are the published arrays or those of
    `freqrob dataset corrupt`.
    """
    check_folder(out)
    dataset = named_dataset(dataset, grayscale)
    from freqrob.data import balance
    from freqrob.diagnostics.corruption_spectrum import save_corruption_spectra, save_spectra
    from freqrob.runtime.provenance import provenance

    is_files = dataset in PHOTOGRAPHS
    if corruptions and is_files:
        raise ValueError(f"corruptions: only of arrays, such as cifar10's, got --corruptions for {dataset}")
    sides = (resize, crop) if is_files else (None, None)
    images = Images(dataset, "test", data, download, None, classes_file, labels_file, *sides, interpolation)
    given = {
        "--dataset": dataset, "--corruptions": str(corruptions) if corruptions else None, **images.as_options(),
    }  # fmt: skip
    command = command_line("dataset", given, "spectrum", *(["--bass"] if bass else []))
    chosen = images.read().images
    with progress_bars() as (progress, _log):
        arrays = _load_corruptions(corruptions, dataset, chosen) if corruptions else None
        sets = {"natural": chosen.images} | ({"bass": balance(chosen).images} if bass else {})
        about = {**provenance(command), "source": str(images)}
        spectra = save_spectra(sets, out, about, progress)
        changes = save_corruption_spectra(chosen, arrays, out, about, progress) if arrays else {}
    table = Table("images", "α", "80 % within (cycles/pixel)", "entropy (nats)", "ln B_low", "ln B_low of x' − x")
    for name, measured in spectra.items():
        table.add_row(name, *_figures(measured))
    for name, (measured, change) in changes.items():
        table.add_row(name, *_figures(measured), f"{change.mean_log_b_low:.2f}")
    print_table(table)
    print_line(f"Wrote {out}")


def _load_corruptions(folder: Path, dataset: str, chosen: ImageSet) -> CorruptionArrays:
    """Load corruptions of the chosen images. Raises ValueError for corruptions of other images."""
    import torch

    from freqrob.data.corruption_arrays import load_corruptions

    arrays = load_corruptions(folder, dataset)
    if not torch.equal(chosen.labels[: len(arrays.labels)], arrays.labels):
        raise ValueError(f"corruptions: the images in {arrays.folder} are not corruptions of {dataset}'s test set")
    return arrays


def _figures(measured: Spectrum) -> tuple[str, ...]:
    """α, the radius of 80 % of the power, the entropy and ln B_low."""
    return (
        f"{measured.alpha:.2f}", f"{measured.boundary_radius:.3f}", f"{measured.entropy:.2f}",
        f"{measured.log_b_low:.2f}",
    )  # fmt: skip


for command in (corrupt, bass, hybrid, spectrum):
    dataset_group.command()(options.with_home(command))
