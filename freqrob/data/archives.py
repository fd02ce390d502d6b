"""Download and unpack archives of data sets, safely with several processes at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from freqrob.runtime.files import move_into_place, temporary_folder_beside


@dataclass(frozen=True)
class Archive:
    """An archive on the web: the folder that it unpacks to, its URL and its MD5 sum in hexadecimal."""

    folder: str
    url: str
    md5: str


def fetch_archive(archive: Archive, into: Path, *, keep: bool = True) -> None:
    """Download an archive and unpack its folder into ``into``, unless the folder exists.

    An intact archive in ``into`` is not downloaded again. Archive and folder appear only when complete.

    Args:
        archive: to download.
        into: created if absent.
        keep: leave the archive in ``into``.

    Raises:
        RuntimeError, OSError, EOFError, HTTPException, zipfile.BadZipFile, tarfile.TarError, zlib.error: the download
            failed, the checksum does not match, the archive is damaged, or files cannot be written.
    """
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    target, file = into / archive.folder, into / archive.url.rpartition("/")[2]
    if target.is_dir():
        return
    with temporary_folder_beside(target) as new:
        if not check_integrity(file, archive.md5):
            download_url(archive.url, new, md5=archive.md5)
            file = (new / file.name).replace(file) if keep else new / file.name
        extract_archive(file, new)
        move_into_place(new / archive.folder, target)
