"""Atomic writes (a temporary file in the same folder, synced, then renamed) and file locks."""

import csv
import errno
import fcntl
import hashlib
import io
import json
import math
import operator
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# First characters that a spreadsheet evaluates
FORMULA = re.compile(r"^(?=[=+\-@＝＋－＠\t\r])|(?<=[;\t\r\n])(?=[=+\-@＝＋－＠])")

LONGEST_NAME = 220  # bytes, so that the name of ``temporary_beside`` has less than 255


def expanded(path: str | Path, argument: str) -> Path:
    """Replace a leading ``~`` or ``~user`` by the home folder. Raises ValueError if that is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{argument}: {path} begins with an unknown home folder; write the path in full") from error


def followed(path: Path) -> Path:
    """The target of a symbolic link, so that writing keeps the link; other paths are unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_folder(folder: Path, argument: str = "out") -> None:
    """Raise OSError, which names the argument, unless files can be written in a folder; create nothing.

    Call this before minutes of work. The folder may not exist yet.
    """
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise NotADirectoryError(f"{argument}: {folder} is a file or in a file, expected a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = f"no files can be written in {existing}: {error.strerror}"
        raise type(error)(f"{argument}: {folder} cannot be used; {reason}") from error


def check_file(path: Path, argument: str = "out", inputs: Iterable[Path] = ()) -> None:
    """Raise OSError, which names the argument, unless a file can be written or replaced; create nothing.

    Raises ValueError if it is one of the input files ``inputs``.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{argument}: {path} is a folder, expected a file")
    if followed(path).is_symlink():
        raise FileExistsError(f"{argument}: {path} is a loop of symbolic links, expected a file")
    if path.exists() and (not path.is_file() or path.is_mount()):
        raise FileExistsError(f"{argument}: {path} is a device, a pipe or a mount point, expected a file")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise ValueError(f"{argument}: expected a name of at most {LONGEST_NAME} bytes, got {path.name}")
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise ValueError(f"{argument}: {path} is an input file; choose another name")
    check_folder(path.parent, argument)


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAY = 24 * 60 * 60  # seconds


class NoSpaceError(OSError):
    """The disk is full, or a quota or size limit is reached; the message names the file and the remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file in the folder of ``path``; the caller writes it and renames it to ``path``.

    Creates a missing folder, and removes the file at the end unless it was renamed. First runs ``remove_abandoned``,
    which recognises files in use by the lock (``flock``) that their writers hold. Raises NoSpaceError if the block
    fails for lack of space, also if that is the cause of a RuntimeError, as in ``torch.save``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, descriptor = _locked_file(path)
        try:
            remove_abandoned(path.parent, path.name)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
    except NoSpaceError:
        raise
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            kept = f"; the earlier {path.name} is intact" if path.exists() else ""
            remedy = f"Free space there, or choose another folder{kept}"
            raise NoSpaceError(cause.errno, f"could not write {path}: {os.strerror(cause.errno)}. {remedy}") from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """``temporary_beside``; the file is synced and renamed to ``path`` at the end, unless the block raises."""
    with temporary_beside(path) as new:
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(new, path)


@contextmanager
def temporary_folder_beside(path: Path) -> Iterator[Path]:
    """Yield an empty folder in the folder of ``path``, and remove it at the end, as ``temporary_beside``."""
    with temporary_beside(path) as lock:
        folder = _folder_of(lock)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove temporary files and folders that killed writers left for ``folder/name``, or for any file in ``folder``.

    A file is abandoned if no process holds its lock. Locks are reliable between processes of one kernel, including
    containers, but may be invisible to other machines on a shared file system. Files of another kernel (or an earlier
    boot of this machine) are therefore removed only if unchanged for a day. Nothing is removed on a file system without
    locks.
    """
    target = ".+" if name is None else re.escape(name)
    temporary = re.compile(rf"\.{target}\.([0-9a-f]+)\.[0-9a-f]{{8}}\.tmp", re.DOTALL)
    with suppress(OSError):  # a folder that is writable but cannot be listed
        for match in filter(None, map(temporary.fullmatch, os.listdir(folder))):
            _remove_if_abandoned(folder / match[0], same_kernel=match[1] == _kernel())


def _locked_file(path: Path) -> tuple[Path, int]:
    """A new file in the folder of ``path``, and a descriptor that holds its lock."""
    while True:
        temporary = path.with_name(f".{path.name}.{_kernel()}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process is removing it as abandoned
            os.close(descriptor)
            continue
        except OSError:  # a file system without locks, where nothing is removed
            return temporary, descriptor
        if temporary.exists():
            return temporary, descriptor
        os.close(descriptor)


def _remove_if_abandoned(file: Path, same_kernel: bool) -> None:
    with suppress(OSError):
        descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            parts = (file, *_folder_of(file).rglob("*"))
            if same_kernel or time.time() - max(part.lstat().st_mtime for part in parts) > _DAY:
                shutil.rmtree(_folder_of(file), ignore_errors=True)
                file.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _folder_of(file: Path) -> Path:
    return file.with_suffix(".folder")


@lru_cache(maxsize=1)
def _kernel() -> str:
    """Eight hexadecimal digits that identify the machine and boot, within which locks are reliable."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:  # not Linux
        name = socket.gethostname().encode()
    return hashlib.sha256(name).hexdigest()[:8]


def move_into_place(new: Path, target: Path) -> bool:
    """Rename a new folder to ``target``; return False if that already exists, for example from a faster process."""
    try:
        os.replace(new, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[bool]:
    """Hold the lock file ``path`` exclusively, also among processes of other machines; create a missing folder.

    The system releases the lock when the process ends; the file remains, and has the folder's permissions, so that all
    users who can write there can lock. Yields whether the lock is held: if the file
    system cannot lock, the block runs without it.

    Args:
        path: the lock file, which has no content.
        timeout: seconds to wait; without limit by default.

    Raises:
        filelock.Timeout: another process holds the lock.
        OSError: the file cannot be created.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, mode=path.parent.stat().st_mode & 0o666)
    with suppress(NotImplementedError):
        lock.acquire(timeout=timeout)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def write_synced(path: Path, content: bytes) -> None:
    """Write ``content`` and wait until it is on disk. Raises OSError."""
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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is complete before it replaces an earlier one. Raises OSError."""
    with replacing(path) as new:
        new.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    r"""Write text in UTF-8; undecodable bytes of file names are written as in ``\udcff``, which JSON reads."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_torch(path: Path, content: Any) -> None:
    """Save tensors, alone or in containers, like ``torch.save``. Raises OSError."""
    import torch

    with replacing(path) as new, new.open("wb") as file:
        torch.save(content, file)


def write_npz(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write tensors by name as a compressed .npz file. Raises OSError."""
    import numpy as np

    content = io.BytesIO()
    np.savez_compressed(content, **{name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})
    write_bytes(path, content.getvalue())


def write_npy(path: Path, shape: tuple[int, ...], blocks: Iterable["np.ndarray"]) -> None:
    """Write a .npy file of uint8 by blocks. A full disk raises OSError (with a memory map it would kill the process).

    The blocks are contiguous and together have as many values as ``shape``. Raises NoSpaceError before the first block
    if the disk has too little space.
    """
    from numpy.lib import format

    with replacing(path) as new, new.open("wb") as file:
        if shutil.disk_usage(path.parent).free < math.prod(shape):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(block.data)


def plain(value: Any) -> Any:
    """A number, or numbers in lists, for JSON: NaN and infinities become None."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(content: Any, argument: str = "content") -> str:
    """Indented JSON; accepts NumPy integers. Raises ValueError, which names the argument, for other objects and NaN."""
    try:
        return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False, default=operator.index)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{argument}: expected values for JSON, without NaN or infinity ({error})") from error


def write_json(path: Path, content: Any) -> None:
    """Write ``as_json(content)``. Raises OSError or ValueError."""
    write_text(path, as_json(content) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows under a header of ``columns``; missing values stay empty. Raises OSError.

    Text that a spreadsheet would evaluate as a formula, such as a model name ``=1+1``, is prefixed by a single quote;
    numbers are unchanged, including negative ones. Source: OWASP, "CSV Injection".
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\r\n")  # so that it quotes either character
    table.writerow(map(_inert, columns))
    table.writerows([_inert(row.get(column, "")) for column in columns] for row in rows)
    write_text(path, text.getvalue().replace("\r\n", "\n"))


def _inert(value: Any) -> Any:
    return FORMULA.sub("'", value) if isinstance(value, str) else value
