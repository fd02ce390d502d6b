"""Files that are whole or absent: written beside the target, synced, then renamed over it."""

import csv
import hashlib
import io
import json
import operator
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Where a spreadsheet begins to evaluate
FORMULA = re.compile(r"^(?=[=+\-@＝＋－＠\t\r])|(?<=[;\t\r\n])(?=[=+\-@＝＋－＠])")



@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A new file name in ``path``'s folder (created if absent); what is left under it at the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write ``content`` and wait until it is on disk. Raises OSError, as the system does, on a full disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file that is complete before it replaces an earlier one. Raises OSError."""
    with temporary_beside(path) as new:
        write_synced(new, text.encode())
        os.replace(new, path)


def write_npy(path: Path, shape: tuple[int, ...], blocks: Iterable["np.ndarray"]) -> None:
    """Write a .npy file of uint8 as its blocks come: a full disk is an OSError here, in a mapped file it would kill.

    Together, the blocks hold as many values as ``shape`` says, each of them contiguous.
    """
    from numpy.lib import format

    with temporary_beside(path) as new:
        with new.open("wb") as file:
            format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; NumPy's integers are integers. Raises OSError, or ValueError for a NaN."""
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False, default=operator.index)
    write_text(path, text + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows under a header of ``columns``; missing values stay empty. Raises OSError.

    Text that a spreadsheet would evaluate as a formula, such as a model called ``=1+1``, gets a single quote in front;
    numbers stay numbers, negative ones too. Source: OWASP, "CSV Injection".
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\r\n")  # by which it knows that either character needs quotes
    table.writerow(map(_inert, columns))
    table.writerows([_inert(row.get(column, "")) for column in columns] for row in rows)
    write_text(path, text.getvalue().replace("\r\n", "\n"))


def _inert(value: Any) -> Any:
    return FORMULA.sub("'", value) if isinstance(value, str) else value
