"""Archives of data sets, fetched and unpacked by any number of processes at once."""

from __future__ import annotations

from pathlib import Path

from freqrob.runtime.files import move_into_place, temporary_folder_beside


def fetch_archive(url: str, md5: str, folder: Path, name: str, *, keep: bool = True) -> None:
    """Download an archive into ``folder``, unless it is there intact, and unpack the folder ``name`` that it holds.

    Archive and folder appear when they are whole; a folder of that name that is there stays.

    Args:
        url: of the archive.
        md5: its checksum, hexadecimal.
        folder: created if absent.
        name: of the folder in the archive.
        keep: leave the archive in ``folder``.

    Raises:
        RuntimeError, OSError, EOFError, HTTPException, zipfile.BadZipFile, tarfile.TarError, zlib.error: the transfer
            failed, the checksum is another one, the archive is damaged, or files cannot be written.
    """
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    file = url.rpartition("/")[2]
    with temporary_folder_beside(folder / name) as new:
        archive = folder / file
        if not check_integrity(archive, md5):
            download_url(url, new, md5=md5)
            archive = (new / file).replace(archive) if keep else new / file
        extract_archive(archive, new)
        move_into_place(new / name, folder / name)
