"""Standard output and standard error whose failures do not end a run."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class _Output(io.TextIOWrapper):
    """Replaces unencodable characters by "?"; drops text that cannot be written and keeps the error in ``failure``."""

    failure: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Send buffered and later text to the null device."""
        self.failure = self.failure or error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


_alive: list[TextIO] = []  # an _Output that is deleted would close the stream that it writes to


@contextmanager
def lenient_output() -> Iterator[None]:
    """Keep printing from raising, on unencodable characters, a closed pipe or a full disk.

    At the end, raises SystemExit(1) if standard output was incomplete, and prints the reason unless its reader closed
    it, as ``| head`` does. Lost standard error, such as progress, is ignored.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_lenient, before)
    ended = None
    try:
        yield
    except SystemExit as exit:
        ended = exit
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        failure = getattr(sys.stdout, "failure", None)
        if failure is not None and failure.errno != errno.EPIPE:
            print(f"Error: standard output is incomplete: {failure.strerror}", file=sys.stderr)
        sys.stdout, sys.stderr = before
    if failure is not None and not (ended and ended.code):
        raise SystemExit(1)
    if ended is not None:
        raise ended


def _lenient(stream: TextIO | None) -> TextIO | None:
    """The stream as an ``_Output``; None (a closed stream) is returned unchanged."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    output = _Output(
        stream.buffer, stream.encoding, "replace", line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )  # fmt: skip
    _alive.append(output)
    return output
