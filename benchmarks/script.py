"""Options, images and exit codes that the scripts share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.records import RESULTS
from freqrob.data import ImageSet, load_dataset
from freqrob.data.samples import sample_images
from freqrob.runtime.files import check_file, write_text
from freqrob.runtime.terminal import lenient_output


def make_parser(description: str | None, record: str, *, data: bool = False) -> argparse.ArgumentParser:
    """A parser with ``--out`` (by default the file ``record`` in results/), ``--quick`` and perhaps ``--data``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: results/{record}")
    parser.add_argument("--quick", action="store_true", help="a smoke test of seconds; needs --out")
    if data:
        parser.add_argument("--data", type=Path, metavar="DIR", help="folder of CIFAR-10; not needed with --quick")
    parser.set_defaults(needs_data=data, record=record)
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program if ``out`` cannot be written, or if ``quick`` would replace a record of results."""
    given = parser.parse_args(arguments)
    if given.quick and given.out is None:
        parser.error("--quick needs --out, so that it replaces no record")
    if given.needs_data and given.data is None and not given.quick:
        parser.error("the following arguments are required: --data")
    check_file(given.out or RESULTS / given.record)
    given.out = (given.out or RESULTS / given.record).absolute()
    return given


def load_images(given: argparse.Namespace) -> ImageSet:
    """CIFAR-10's test set, or its first 20 images without ``--data``."""
    return load_dataset("cifar10", "test", given.data) if given.data else sample_images()


def generate(path: Path, make: Callable[[], str], description: str | None, arguments: Sequence[str] | None) -> int:
    """Write the text of a file; with ``--check`` only compare. The exit code: 1 if the check finds a difference."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file would change")
    check, text = parser.parse_args(arguments).check, make()
    if not check:
        write_text(path, text)
    return int(check and not (path.is_file() and path.read_text() == text))


def run(main: Callable[[], object]) -> None:
    """Call a script's main function and exit; errors of usage are printed in one line."""
    with lenient_output():
        try:
            status = main()
        except (ValueError, OSError, ImportError) as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
        sys.exit(status)
