"""Per-sample results on disk, so that an interrupted run continues and nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from freqrob.runtime.cache import check_cache
from freqrob.runtime.files import locked, remove_abandoned, write_bytes
from freqrob.runtime.processes import merged, propagate_failure
from freqrob.runtime.reading import open_file
from freqrob.runtime.warning import warn

DONE = "done"
SECONDS_TO_APPEAR = 60  # until NFS shows a file that another machine has replaced; acdirmax's default


class Samples:
    """Named values of each of ``count`` samples, in one file that processes may share.

    The file is ``<prefix>-<hash of key>.safetensors``: a tensor (count, …) for each value, ``done`` (count,) bool, and
    ``key`` as JSON in its metadata. Each ``put`` replaces it atomically. A file that is truncated or has another key is
    renamed with the suffix ``.damaged``, with a warning, and its samples are measured again.

    Args:
        folder: contains the file, created if absent; None keeps values in memory only.
        key: everything that the values depend on, such as ``subject_key``, ``data_hash`` and an attack's parameters.
        count: number of samples.
        prefix: readable beginning of the file name.

    Raises:
        OSError: the folder is not writable.
    """

    def __init__(self, folder: Path | None, key: Mapping[str, Any], count: int, prefix: str = "samples") -> None:
        self.key = json.dumps(key, sort_keys=True, allow_nan=False, default=operator.index)
        self.done = torch.zeros(count, dtype=torch.bool)
        self._values: dict[str, Tensor] = {}
        self.path = None
        if folder is not None:
            digest = hashlib.sha256(self.key.encode()).hexdigest()[:20]
            check_cache(Path(folder))
            self.path = Path(folder) / f"{re.sub(r'[^A-Za-z0-9.+-]+', '-', prefix)}-{digest}.safetensors"
            with self._locked():
                self._merge(self._read())

    def __getitem__(self, name: str) -> Tensor:
        """A value of all samples, (count, …), zero for samples that are not ``done``. Raises KeyError."""
        return self._values[name]

    def put(self, index: Tensor | slice, **values: Tensor) -> None:
        """Store the values of some samples, in the order of ``index``, and read those that other processes stored.

        All calls must use the same names. Raises ValueError for names, types or shapes that differ from earlier ones,
        OSError when writing fails (a full disk), with the earlier file intact.
        """
        index = torch.arange(len(self.done))[index.cpu() if isinstance(index, Tensor) else index]
        with self._locked():
            self._merge(self._read())
            self._check(values, len(index))
            for name, value in values.items():
                if name not in self._values:
                    self._values[name] = value.new_zeros((len(self.done), *value.shape[1:]), device="cpu")
                self._values[name][index] = value.detach().cpu()
            self.done[index] = True
            if self.path is not None:
                write_bytes(self.path, safetensors.torch.save({**self._values, DONE: self.done}, {"key": self.key}))

    def gather(self) -> None:
        """Read the values that all processes of the initialised ``torch.distributed`` group stored; each must call it.

        Raises OSError if values are missing: the processes do not share the folder, or it cannot be locked.
        """
        (done,) = merged([self.done])
        with propagate_failure():
            for pause in (0, *[1] * SECONDS_TO_APPEAR):
                time.sleep(pause)
                with self._locked():
                    self._merge(self._read())
                if self.done[done].all():
                    return
            raise OSError(
                f"cache: {self.path} lacks {int((done & ~self.done).sum())} samples that another process has measured; "
                "expected a folder that all processes share, on a file system that can lock"
            )

    def _check(self, values: Mapping[str, Tensor], count: int) -> None:
        if not values or DONE in values or (self._values and values.keys() != self._values.keys()):
            raise ValueError(f"values: got {', '.join(values)}, expected {', '.join(self._values) or 'some'}")
        for name, value in values.items():
            known = self._values.get(name, value)
            if value.dtype != known.dtype or value.shape != (count, *known.shape[1:]):
                expected = f"{known.dtype} {(count, *known.shape[1:])}"
                raise ValueError(f"{name}: got {value.dtype} {tuple(value.shape)}, expected {expected}")

    def _merge(self, stored: Mapping[str, Tensor]) -> None:
        """Add the values that only the file has."""
        if not stored:
            return
        new = stored[DONE] & ~self.done
        for name in stored.keys() - {DONE}:
            self._values.setdefault(name, torch.zeros_like(stored[name]))[new] = stored[name][new]
        self.done |= new

    def _read(self) -> dict[str, Tensor]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            open_file(self.path).close()
            with safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not iterable
                key = (file.metadata() or {}).get("key")
            sizes = {len(tensor) for tensor in tensors.values()}
            is_complete = key == self.key and DONE in tensors and len(tensors) > 1 and sizes == {len(self.done)}
            if is_complete and tensors[DONE].dtype == torch.bool and tensors[DONE].ndim == 1:
                return tensors
            reason = "it has other content"
        except (SafetensorError, ValueError, TypeError) as error:  # TypeError: a tensor without a length
            reason = str(error)
        aside = self.path.with_suffix(".damaged")
        os.replace(self.path, aside)
        warn(f"{self.path}: not usable ({reason}); renamed to {aside.name}, measured again")
        return {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock out other processes that share the folder, and remove unfinished files of killed ones."""
        if self.path is None:
            yield
            return
        with locked(self.path.parent / ".lock") as is_alone:
            if is_alone:
                remove_abandoned(self.path.parent, self.path.name)
            yield
