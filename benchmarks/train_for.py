"""Train recipes one after another within a time budget; the same call resumes where the last one stopped.

    python -m benchmarks.train_for --minutes 20 --data DIR --out DIR RECIPE …  [--set KEY=VALUE]

The trained models are written to --out as one archive of weights in float16, cards, metrics and curves, in pieces of at
most 15 MB: `cat models.tar.* | tar x`. It includes the checkpoints for resuming if they are small; --from resumes from
such pieces on another machine. It is meant for machines that are lent by the minute, and needs neither Typer nor Rich.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path

from benchmarks.script import run
from freqrob.runtime.files import check_folder
from freqrob.training import parse_settings, recipe_for, train

PIECE, CHECKPOINTS = 15_000_000, 45_000_000  # bytes


def hand_over(model_dir: Path, out: Path) -> None:
    """Archive the models and runs in ``model_dir``, with the checkpoints for resuming if they are small."""
    files = [path for path in sorted(model_dir.rglob("*")) if path.suffix in (".safetensors", ".json", ".csv", ".png")]
    last = [path for path in sorted(model_dir.rglob("last.*")) if path.is_file()]
    files = [path for path in files if path not in last]
    if sum(path.stat().st_size for path in last) <= CHECKPOINTS:
        files += last
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in files:
            tar.add(path, path.relative_to(model_dir))
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("models.tar.*"):
        old.unlink()
    content = archive.getvalue()
    for start in range(0, len(content), PIECE):
        (out / f"models.tar.{start // PIECE:02}").write_bytes(content[start : start + PIECE])


def take_up(pieces: Path, model_dir: Path) -> None:
    """Unpack the archive of an earlier call, unless ``model_dir`` exists, which is newer."""
    found = sorted(pieces.glob("models.tar.*"))
    if not found:
        raise SystemExit(f"--from: no models.tar.NN in {pieces}")
    if not model_dir.exists():
        content = io.BytesIO(b"".join(piece.read_bytes() for piece in found))
        with tarfile.open(fileobj=content) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.3 and 3.10.11 have none
            tar.extractall(model_dir)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--model-dir", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `freqrob train` takes it")
    parser.add_argument(
        "--from", type=Path, dest="pieces", metavar="DIR", help="resume from the --out of an earlier call"
    )
    given = parser.parse_args(arguments)
    check_folder(given.out)
    if given.pieces:
        take_up(given.pieces, given.model_dir)
    timer = threading.Timer(60 * given.minutes, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        for name in given.recipes:
            recipe = recipe_for(name, given.dataset, **parse_settings(name, given.set))
            train(recipe, given.data, given.model_dir, log=print)
    except KeyboardInterrupt:
        print(f"{name}: time is up", flush=True)
    finally:
        timer.cancel()
        hand_over(given.model_dir, given.out)


if __name__ == "__main__":
    run(main)
