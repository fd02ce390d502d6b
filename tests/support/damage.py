"""Damaged files: how they are made, and how readers must refuse them."""

import io
import json
import zipfile

import numpy as np
import pytest


def refusal(read, path):
    """The message with which a file is refused: one line that names it."""
    with pytest.raises((ValueError, OSError)) as raised:
        read(path)
    message = str(raised.value)
    assert str(path) in message and "\n" not in message and len(message) < 1000
    return message


def npz_that_declares(path, shape, dtype="<f4", data=b""):
    """An .npz whose array has another shape in its header than in its file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header.getvalue() + data)
    return header.getvalue() + data


# What replaces a value of a JSON file, at every place
VALUES = [
    None, True, -1, 0.5, 10**30, 10**400, 1e300, "x", "a" * 100_000, "a\n\x1b[31m<b>", [], [None] * 3, {}, {"a": 1},
]  # fmt: skip
ABSENT = object()


def mutated(content, values=(*VALUES, ABSENT)):
    """``content`` with one value replaced or left out, for every place and value; with the place."""
    places = [()]
    for place in places:
        inside = content
        for key in place:
            inside = inside[key]
        if isinstance(inside, dict | list):
            places += [(*place, key) for key in (inside if isinstance(inside, dict) else range(min(len(inside), 4)))]
    for place in places:
        for value in values:
            copy = json.loads(json.dumps(content))
            inside = copy
            for key in place[:-1]:
                inside = inside[key]
            if value is ABSENT and place:
                del inside[place[-1]]
            elif place:
                inside[place[-1]] = value
            else:
                copy = None if value is ABSENT else value
            yield place, copy
