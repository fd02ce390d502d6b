"""What the parameters of defences and augmentations have to be."""

from math import isfinite


def check_pixels(**values: float) -> None:
    """Raise ValueError unless each is a distance in pixels of [0, 1]."""
    for name, value in values.items():
        if not is_number(value) or not 0 < value <= 1:
            raise ValueError(f"{name}: expected pixels in (0, 1], such as 8/255, got {value!r}")


def check_counts(**values: int) -> None:
    """Raise ValueError unless each is an integer from 1 on."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected an integer from 1 on, got {value!r}")


def check_weights(**values: float) -> None:
    """Raise ValueError unless each is a finite number."""
    for name, value in values.items():
        if not is_number(value) or not isfinite(value):
            raise ValueError(f"{name}: expected a finite number, got {value!r}")


def is_number(value: object) -> bool:
    """Whether it is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)
