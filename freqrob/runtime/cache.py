"""Cache folders of measured results, native kernels and compiled code."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from freqrob.runtime.files import check_folder
from freqrob.runtime.private import NotPrivateError, private_folder

NO_CODE = getattr(os, "ST_NOEXEC", 0)  # exists on Linux only
REMEDY = "set FREQROB_CACHE to a folder that belongs to you and that only you can write to"


def cache_folder() -> Path:
    """FREQROB_CACHE, else XDG_CACHE_HOME/freqrob, else ~/.cache/freqrob; the folder may not exist yet.

    Without a home folder (HOME is not set and the user is not in the user database, as in some containers), or if
    FREQROB_CACHE begins with an unknown ``~user``, it is the temporary folder of ``usable_folder``.
    """
    return _named_folder() or Path(_temporary_root(), _temporary_name())


def usable_folder(*names: str, for_code: bool = False) -> tuple[Path, list[str]]:
    """A writable cache folder, created if missing, and the reasons why it is not in ``cache_folder()``, if it is not.

    The second choice is a folder of this user, with mode 0700, in the system's temporary folder (TMPDIR, /tmp).

    Args:
        names: the folder below the cache, such as ``"native", key``.
        for_code: refuse a cache that other users can change, or that is on a file system mounted noexec. A temporary
            folder that other users can change is always refused.

    Raises:
        OSError: no folder can be used; the message gives the reasons.
    """
    reasons: list[str] = []
    choices: list[tuple[Path, tuple[str, ...], bool]] = [(_temporary_root(), (_temporary_name(), *names), True)]
    if named := _named_folder():
        choices.insert(0, (named, names, for_code))
    else:
        name = "FREQROB_CACHE" if os.environ.get("FREQROB_CACHE") else "HOME"
        reasons.append(f"there is no home folder ({name} is {os.environ.get(name) or 'not set'})")
    for root, parts, strict in choices:
        try:
            folder = _make_folder(root, parts, strict)
            with tempfile.TemporaryFile(dir=folder):
                pass
            if not (for_code and os.statvfs(folder).f_flag & NO_CODE):
                return folder, reasons
            reasons.append(f"{folder} is on a file system that is mounted noexec")
        except NotPrivateError as error:
            reasons.append(str(error))
        except OSError as error:
            reasons.append(f"no files can be written in {root / parts[0]} ({error.strerror or error})")
    raise OSError(f"no cache folder can be used: {'; '.join(reasons)}")


def check_cache(folder: Path) -> None:
    """Create a folder for results. Raises OSError, with the remedy, if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "choose another folder (--cache DIR), or keep nothing (--no-cache; in Python, cache=None)"
        raise OSError(f"cache: no files can be written in {folder} ({error.strerror}); {remedy}") from error


def set_matplotlib_folder() -> None:
    """Set matplotlib's cache to a folder in freqrob's if the home folder is not writable.

    Otherwise each process creates a temporary folder, warns, and rebuilds the font list.
    """
    if "MPLCONFIGDIR" in os.environ:
        return
    try:
        for name, default in (("XDG_CONFIG_HOME", "~/.config"), ("XDG_CACHE_HOME", "~/.cache")):
            if (base := os.path.expanduser(os.environ.get(name) or default)).startswith("~"):
                raise FileNotFoundError("no home folder")
            check_folder(Path(base))
    except OSError:
        with suppress(OSError):
            os.environ["MPLCONFIGDIR"] = str(usable_folder("matplotlib")[0])


def set_compile_folder() -> None:
    """Set torch.compile's code cache to a folder in freqrob's, unless TORCHINDUCTOR_CACHE_DIR is set.

    Code in the default folder, /tmp/torchinductor_USER, may be another user's. Call this before ``torch._dynamo`` is
    imported. Raises OSError if no folder can be used.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    try:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(usable_folder("inductor", for_code=True)[0])
    except OSError as error:
        raise OSError(f"compile: {error}; {REMEDY}") from error


def _named_folder() -> Path | None:
    """The folder from the environment or in the user's home, if any."""
    chosen = os.environ.get("FREQROB_CACHE")
    base = os.path.expanduser(chosen or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if base.startswith("~"):
        return None
    return Path(base).absolute() if chosen else Path(base).absolute() / "freqrob"


def _temporary_root() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # none is writable; usable_folder reports it
        return Path("/tmp")


def _temporary_name() -> str:
    return f"freqrob-{os.geteuid()}"


def _make_folder(root: Path, names: tuple[str, ...], private: bool) -> Path:
    try:
        return private_folder(root, *names, create=True)
    except NotPrivateError:
        if private:
            raise
    folder = root.joinpath(*names)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
