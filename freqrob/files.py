"""Files that are whole or absent: written beside the target, synced, then renamed over it; and locks on them."""

import csv
import errno
import hashlib
import io
import json
import operator
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Where a spreadsheet begins to evaluate
FORMULA = re.compile(r"^(?=[=+\-@＝＋－＠\t\r])|(?<=[;\t\r\n])(?=[=+\-@＝＋－＠])")

LONGEST_NAME = 220  # bytes, with which the name of ``temporary_beside`` still has less than 255


def check_folder(folder: Path, argument: str = "out") -> None:
    """Raise OSError, naming the argument, unless files can be written in a folder; create nothing.

    For use before minutes of work. The folder need not exist.
    """
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise NotADirectoryError(f"{argument}: {folder} is or lies in a file, expected a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = f"no files can be written in {existing}: {error.strerror}"
        raise type(error)(f"{argument}: {folder} cannot be used; {reason}") from error


def check_file(path: Path, argument: str = "out", inputs: Iterable[Path] = ()) -> None:
    """Raise OSError, naming the argument, unless a file can be written or replaced; create nothing.

    Raises ValueError if it is one of the ``inputs``, the files that are read.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{argument}: {path} is a folder, expected a file")
    if path.exists() and (not path.is_file() or path.is_mount()):
        raise FileExistsError(f"{argument}: {path} is a device, a pipe or a mount point, expected a file")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise ValueError(f"{argument}: expected a name of at most {LONGEST_NAME} bytes, got {path.name}")
    if any(path.resolve() == one.resolve() for one in inputs):
        raise ValueError(f"{argument}: {path} is one of the files that are read; choose another name")
    check_folder(path.parent, argument)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A new file name in ``path``'s folder (created if absent); what is left under it at the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder in ``path``'s folder (created if absent); removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as new:
        yield Path(new)


def move_into_place(new: Path, target: Path) -> bool:
    """Rename a new folder to ``target``; False where there is one, such as another process's that was faster."""
    try:
        os.replace(new, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[bool]:
    """Hold the lock file ``path``, in a folder that is created if absent; alone among processes of any machine.

    The system releases it when a process ends, and the file stays. Yields whether it is held: where the file system
    cannot lock, the block runs without.

    Args:
        path: of a file that holds nothing else.
        timeout: seconds to wait; by default for as long as it takes.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file cannot be made.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    with suppress(NotImplementedError):
        lock.acquire(timeout=timeout)
    try:
        yield lock.is_locked
    finally:
        lock.release()


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
    """Write a text file (UTF-8) that is complete before it replaces an earlier one. Raises OSError.

    Bytes of a file name that are not UTF-8 are written as in ``\\udcff``, which JSON reads back.
    """
    with temporary_beside(path) as new:
        write_synced(new, text.encode(errors="backslashreplace"))
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


def as_json(content: Any, argument: str = "content") -> str:
    """Indented JSON; NumPy's integers are integers. Raises ValueError, naming the argument, for other objects, NaN."""
    try:
        return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False, default=operator.index)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{argument}: expected what JSON can hold, without NaN or infinity ({error})") from error


def write_json(path: Path, content: Any) -> None:
    """Write ``as_json(content)``. Raises OSError or ValueError."""
    write_text(path, as_json(content) + "\n")


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
