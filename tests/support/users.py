"""Other users of the machine, for real: processes that root starts under another uid."""

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STRANGER, OTHER_STRANGER = 12345, 12346  # uids that nobody has

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for several users")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def become(uid: int) -> None:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def in_a_process(function: Callable[[], object]) -> object:
    """What ``function`` returns, or the error that it raises as text, in a forked process."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            answer = function()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        there.send(answer)
        os._exit(0)
    os.waitpid(child, 0)
    return here.recv()


def as_user(uid: int, function: Callable[[], object]) -> object:
    """The same in a process of that user."""
    return in_a_process(lambda: (become(uid), function())[1])


def give(path: Path, uid: int) -> None:
    os.chown(path, uid, uid, follow_symlinks=False)


@contextmanager
def exchanging(folder: Path, one: str, other: str, uid: int) -> Iterator[None]:
    """Another user exchanges two names in a folder, over and over (renameat2 with RENAME_EXCHANGE)."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)  # perhaps below folders that the user may not enter
        become(uid)
        rename, names = ctypes.CDLL(None).renameat2, (one.encode(), other.encode())
        while rename(-100, names[0], -100, names[1], 2) == 0:  # AT_FDCWD, RENAME_EXCHANGE
            pass
        os._exit(1)
    try:
        yield
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the names could not be exchanged"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
