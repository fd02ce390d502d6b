"""Folders and files that other users can change are refused: real users, modes, links and exchanges."""

import ctypes
import grp
import os
import pwd
import stat
import struct
from pathlib import Path

import pytest

from freqrob.runtime.private import NotPrivateError, open_private, private_folder
from tests.support.users import (
    OTHER_STRANGER,
    STRANGER,
    as_user,
    exchanging,
    give,
    in_a_process,
    needs_linux,
    needs_root,
)

# Folders


def test_folders_are_created_for_the_user_alone(tmp_path):
    folder = private_folder(tmp_path / "a" / "b", "native", "key", create=True)
    assert folder == tmp_path / "a" / "b" / "native" / "key"
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (tmp_path / "a", folder.parent, folder)]
    assert modes[0] & 0o022 == 0 and modes[1:] == [0o700, 0o700]
    assert private_folder(tmp_path / "a" / "b", "native", "key") == folder


def test_a_missing_folder_is_not_created_unless_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError):
        private_folder(tmp_path, "native")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o777, 0o722, 0o702, 0o770, 0o775])
def test_a_folder_above_that_others_can_write_to_is_refused_and_nothing_created(tmp_path, mode):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    os.chown(tmp_path / "open", -1, OTHER_STRANGER) if os.geteuid() == 0 else None
    with pytest.raises(NotPrivateError, match=f"open can be .* by (everybody|its group) .*{mode:o}"):
        private_folder(tmp_path / "open" / "cache", "native", create=True)
    assert not list((tmp_path / "open").iterdir())


def test_others_can_write_to_a_sticky_folder_above_but_not_to_the_folder_itself(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    folder = private_folder(tmp_path / "tmp", "mine", create=True)
    folder.chmod(0o1777)
    with pytest.raises(NotPrivateError, match=r"mine can be written to by everybody \(mode 1777\)"):
        private_folder(tmp_path / "tmp", "mine", create=True)


def test_links_are_followed_above_the_folder_only(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    assert private_folder(tmp_path / "cache", "native", create=True) == tmp_path / "disk" / "native"
    (tmp_path / "disk" / "link").symlink_to(tmp_path)
    with pytest.raises(NotPrivateError, match="link is a symbolic link"):
        private_folder(tmp_path / "cache", "link", "native", create=True)
    assert sorted(os.listdir(tmp_path)) == ["cache", "disk"]


@pytest.mark.parametrize("target", ["nowhere", "loop"])
def test_a_link_to_nothing_is_refused(tmp_path, target):
    (tmp_path / "loop").symlink_to(tmp_path / target)
    with pytest.raises(OSError, match="loop|nowhere"):
        private_folder(tmp_path, "loop", create=True)
    assert os.listdir(tmp_path) == ["loop"]
    if target == "loop":
        with pytest.raises(NotPrivateError, match="symbolic link"):
            private_folder(tmp_path / "loop", "native", create=True)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "native").touch()
    with pytest.raises(NotADirectoryError, match="native is a file, expected a folder"):
        private_folder(tmp_path, "native", create=True)


@needs_root
def test_root_refuses_a_folder_of_another_user(common):
    (common / "home").mkdir()
    give(common / "home", STRANGER)
    with pytest.raises(NotPrivateError, match=rf"home belongs to another user \(uid {STRANGER}\)"):
        private_folder(common / "home" / ".cache", "native", create=True)
    assert not list((common / "home").iterdir())


@needs_root
def test_a_user_trusts_root_but_nobody_else(common):
    for owner in (0, STRANGER, OTHER_STRANGER):
        (common / str(owner)).mkdir()
        give(common / str(owner), owner)
    assert as_user(STRANGER, lambda: private_folder(common, "0")) == common / "0"
    assert as_user(STRANGER, lambda: private_folder(common, str(STRANGER))) == common / str(STRANGER)
    told = as_user(STRANGER, lambda: private_folder(common, str(OTHER_STRANGER)))
    assert told == f"NotPrivateError: {common / str(OTHER_STRANGER)} belongs to another user (uid {OTHER_STRANGER})"


def user_with_a_group_of_their_own() -> pwd.struct_passwd:
    for user in pwd.getpwall():
        try:
            group = grp.getgrgid(user.pw_gid)
        except KeyError:
            continue
        if user.pw_uid and group.gr_name == user.pw_name and not group.gr_mem:
            return user
    pytest.skip("every user shares a group")


@needs_root
def test_the_group_may_write_if_it_is_the_users_own(common):
    user = user_with_a_group_of_their_own()
    folder = common / "home"
    folder.mkdir()
    os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o775)
    assert as_user(user.pw_uid, lambda: private_folder(folder, "native", create=True)) == folder / "native"
    os.chown(folder, user.pw_uid, OTHER_STRANGER)
    assert "home can be written to by its group" in as_user(user.pw_uid, lambda: private_folder(folder, "native"))
    assert "home can be written to by its group" in as_user(user.pw_uid, lambda: private_folder(common, "home"))


@needs_root
@needs_linux
def test_the_group_may_not_write_where_an_access_control_list_names_more_users(common):
    user, folder = user_with_a_group_of_their_own(), common / "home"
    folder.mkdir()
    os.chown(folder, user.pw_uid, user.pw_gid)
    # user::rwx, user:STRANGER:rwx, group::r-x, mask::rwx, other::r-x
    entries = [(0x01, 7, -1), (0x02, 7, STRANGER), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(folder, "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("a file system without access control lists")
    assert as_user(STRANGER, lambda: (folder / "evil").touch()) is None  # the list does give access
    assert "home can be written to by its group" in as_user(user.pw_uid, lambda: private_folder(folder, "native"))


@needs_root
@needs_linux
@pytest.mark.parametrize("mapped", [True, False])
def test_in_a_user_namespace(common, mapped):
    """As in Apptainer: /, /tmp and other users' files belong to "nobody", and so do one's own without a mapping."""
    (common / "tmp").mkdir()
    (common / "tmp").chmod(0o1777)
    (common / "tmp" / "theirs").mkdir()
    give(common / "tmp" / "theirs", OTHER_STRANGER)

    def inside(name: str) -> Path:
        libc = ctypes.CDLL(None)
        libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, without which a process that changed its user has no /proc/self
        if libc.unshare(0x10000000) != 0:  # CLONE_NEWUSER
            raise OSError("no user namespaces")
        if mapped:
            Path("/proc/self/uid_map").write_text(f"{STRANGER} {STRANGER} 1")
        assert os.stat("/").st_uid == os.stat(common / "tmp" / "theirs").st_uid != 0
        return private_folder(common / "tmp", name, create=True)

    theirs, mine = (as_user(STRANGER, lambda name=name: inside(name)) for name in ("theirs", "mine"))
    if "no user namespaces" in str(mine):
        pytest.skip("no user namespaces here")
    assert "theirs belongs to another user" in theirs
    assert mine == common / "tmp" / "mine" if mapped else "mine belongs to another user" in mine


@needs_root
@needs_linux
def test_a_mount_point_in_a_folder_of_everybody_is_refused(common):
    """A file system that another user serves (FUSE) could say that root owns everything."""
    (common / "tmp" / "mine").mkdir(parents=True)
    (common / "tmp").chmod(0o1777)
    (common / "tmp" / "mine").chmod(0o700)

    def beneath_a_mount() -> Path:
        libc = ctypes.CDLL(None)
        mount = (b"none", os.fsencode(common / "tmp" / "mine"), b"tmpfs", 0, b"mode=700")
        # CLONE_NEWNS, MS_REC | MS_PRIVATE
        if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None) or libc.mount(*mount):
            raise OSError("no mounts")
        return private_folder(common / "tmp", "mine")

    told = str(in_a_process(beneath_a_mount))
    if "no mounts" in told:
        pytest.skip("no mounts here")
    assert told.startswith("NotPrivateError") and "mine is a mount point" in told
    assert private_folder(common / "tmp", "mine") == common / "tmp" / "mine"


# Files


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o644)
    return path


def test_a_file_that_others_can_only_read_is_opened(file):
    with open_private(file) as opened:
        assert opened.read() == b"content"


@pytest.mark.parametrize("mode", [0o666, 0o602])
def test_a_file_that_others_can_write_to_is_refused(file, mode):
    file.chmod(mode)
    with pytest.raises(NotPrivateError, match=rf"file can be written to by everybody \(mode 0{mode:o}\)"):
        open_private(file)


@needs_root
def test_a_file_of_another_user_is_refused(file):
    give(file, STRANGER)
    with pytest.raises(NotPrivateError, match="belongs to another user"):
        open_private(file)


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder", "device"])
def test_only_a_regular_file_is_opened_and_nothing_waits(tmp_path, file, kind):
    path = tmp_path / kind
    if kind in ("link", "dangling"):
        path.symlink_to(file if kind == "link" else tmp_path / "nothing")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/null")
    with pytest.raises(NotPrivateError, match="is a symbolic link|is not a regular file"):
        open_private(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_private(tmp_path / "nothing")


def test_a_file_beside_a_module_may_be_as_easy_to_change_as_the_module(tmp_path, file):
    module = tmp_path / "module.py"
    module.touch()
    file.chmod(0o666)
    module.chmod(0o664)
    with pytest.raises(NotPrivateError, match="everybody"):
        open_private(file, like=module)
    module.chmod(0o666)
    open_private(file, like=module).close()
    if os.geteuid() == 0:
        give(file, STRANGER)
        with pytest.raises(NotPrivateError, match="belongs to another user"):
            open_private(file, like=module)
        give(module, STRANGER)
        open_private(file, like=module).close()


def test_what_is_read_is_what_was_checked(tmp_path, file):
    """Another file under the same name changes nothing once it is open."""
    with open_private(file) as opened:
        (tmp_path / "other").write_bytes(b"foreign")
        os.replace(tmp_path / "other", file)
        assert opened.read() == b"content"


@needs_root
@needs_linux
def test_what_passes_is_not_exchanged_afterwards(common):
    """Where another user can exchange folders, none of them passes, at whatever moment it is looked at."""
    (common / "open").mkdir()
    (common / "open").chmod(0o777)
    for name, owner in (("ours", 0), ("theirs", STRANGER)):
        (common / "open" / name / "native").mkdir(parents=True)
        give(common / "open" / name, owner)
    with exchanging(common / "open", "ours", "theirs", STRANGER):
        for _ in range(2000):
            with pytest.raises(NotPrivateError):
                private_folder(common / "open" / "ours", "native")
