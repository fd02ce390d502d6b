"""Folders and files that no other user can change, for code that is loaded into this process."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


class NotPrivateError(OSError):
    """Another user can change a folder or file; the message gives its path and the reason."""


def private_folder(root: Path, *names: str, create: bool = False) -> Path:
    """The real path of ``root/name/…``, after a check that no other user can change the folder.

    Every folder from ``/`` to ``root`` must belong to this user or to root, and nobody else may write to it unless
    its sticky bit is set, as for ``/tmp``. A folder in a sticky folder must not be a mount point, because a file system
    of another user (FUSE) could show any owner. The folders ``names`` must not be symbolic links or sticky. Each folder
    is checked before the next one is looked up in it, and no other user can replace a checked folder, so the path
    remains safe to use. With ``create``, missing folders are created in this order, ``names`` with mode 0700; nothing
    is created in a refused folder.

    A group-writable folder is refused, unless the group is the user's own: Debian, Ubuntu and Red Hat give each user a
    group without other members, and a umask of 002. Debian's OpenSSH has the same rule.

    Raises:
        NotPrivateError: another user can change one of the folders.
        OSError: a folder is missing, or cannot be created.
    """
    real = Path(os.path.realpath(root))
    folders = [(folder, False) for folder in (*reversed(real.parents), real)]
    for name in names:
        real /= name
        folders.append((real, True))
    sticky, device = False, None
    for folder, strict in folders:
        info = _lstat(folder, (0o700 if strict else 0o755) if create else None)
        if stat.S_ISLNK(info.st_mode):
            raise NotPrivateError(f"{folder} is a symbolic link, expected a folder")
        if not stat.S_ISDIR(info.st_mode):
            raise NotADirectoryError(f"{folder} is a file, expected a folder")
        if sticky and info.st_dev != device:
            raise NotPrivateError(f"{folder} is a mount point in a folder that others can write to")
        owners = _owners() if strict else _owners() | _unmapped()
        sticky = not strict and bool(info.st_mode & stat.S_ISVTX and info.st_mode & 0o022)
        device = info.st_dev
        _check(folder, info, owners, 0o022 if sticky else 0)
    return real


def open_private(path: Path, like: Path | None = None) -> BinaryIO:
    """Open for reading a regular file that belongs to this user or to root and that nobody else can write to.

    Use only the open file: ``path`` may have been replaced. With ``like``, symbolic links are followed, and the owner
    of the file ``like`` and users who can write to it are accepted too, because they could change that file, such as a
    Python module, with the same effect.

    Raises:
        NotPrivateError: another user can change it, or it is a symbolic link, a pipe, a device or a folder.
        OSError: it is missing, or cannot be read.
    """
    if like is None and path.is_symlink():
        raise NotPrivateError(f"{path} is a symbolic link, expected a file")
    # Without O_NONBLOCK, opening a named pipe would wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if like is None else 0)
    descriptor = os.open(path, flags)
    try:
        info, owners, writable = os.fstat(descriptor), _owners(), 0
        if not stat.S_ISREG(info.st_mode):
            raise NotPrivateError(f"{path} is not a regular file")
        if like is not None:
            known = like.stat()
            owners |= {known.st_uid}
            writable = known.st_mode & (0o022 if known.st_gid == info.st_gid else 0o002)
        _check(path, info, owners, writable)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _lstat(folder: Path, mode: int | None) -> os.stat_result:
    """``folder.lstat()``; a missing folder is created with ``mode``."""
    try:
        return folder.lstat()
    except FileNotFoundError:
        if mode is None:
            raise
    with suppress(FileExistsError):  # another process has just created it
        folder.mkdir(mode)
    return folder.lstat()


def _check(path: Path, info: os.stat_result, owners: set[int], writable: int) -> None:
    """Raise NotPrivateError if users other than ``owners`` can write, except by the mode bits ``writable``."""
    if info.st_uid not in owners:
        raise NotPrivateError(f"{path} belongs to another user ({_user_name(info.st_uid)})")
    excess = info.st_mode & 0o022 & ~writable
    if excess & 0o020 and _is_own_group(info.st_gid) and not _has_acl(path):
        excess &= ~0o020
    if excess:
        writers = "everybody" if excess & 0o002 else "its group"
        raise NotPrivateError(f"{path} can be written to by {writers} (mode {stat.S_IMODE(info.st_mode):04o})")


def _owners() -> set[int]:
    """Root and this user, except those unmapped in the user namespace, who cannot be distinguished from others."""
    return {0, os.geteuid()} - _unmapped()


def _unmapped() -> set[int]:
    """In a user namespace (Apptainer, bubblewrap, rootless containers), the uid of all users outside it.

    These often include root, and ``/`` and ``/tmp`` belong to this uid. It is accepted only above the user's folders.
    """
    with suppress(OSError, ValueError):
        if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
            return {int(Path("/proc/sys/kernel/overflowuid").read_text())}
    return set()


def _is_own_group(group: int) -> bool:
    """Whether a group is the user's own: primary, with the user's name and no other member; never root's."""
    import grp
    import pwd

    try:
        user, record = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:  # a group id without a name, as in containers
        return False
    return 0 != group == user.pw_gid and record.gr_name == user.pw_name and set(record.gr_mem) <= {user.pw_name}


def _has_acl(path: Path) -> bool:
    """Whether an access control list gives more users access than the mode bits show (where Python can read it)."""
    try:
        return "system.posix_acl_access" in os.listxattr(path, follow_symlinks=False)
    except (AttributeError, OSError):  # not on Linux, or a file system without them
        return False


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
