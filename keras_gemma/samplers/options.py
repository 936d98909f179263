"""The numbers of a sampler: their ranges, for all rows or one per row, and what changes nothing."""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np


class Number(NamedTuple):
    """What a number of a sampler may be."""

    neutral: float  # changes nothing
    fits: Callable[[float], bool]
    range: str


def _is_count(x):
    return x == math.inf or (x >= 1 and x == math.floor(x))


# Each may be one number or one per row, and each may stand in `SamplingContext.settings`.
NUMBERS = {
    "temperature": Number(1.0, lambda x: 0 <= x < math.inf, "0 or more, and finite"),
    "top_k": Number(math.inf, _is_count, "a whole number of at least 1"),
    "top_p": Number(1.0, lambda x: 0 <= x <= 1, "in [0, 1]"),
    "min_p": Number(0.0, lambda x: 0 <= x <= 1, "in [0, 1]"),
    "typical_p": Number(1.0, lambda x: 0 < x <= 1, "above 0, and at most 1"),
    "repetition_penalty": Number(1.0, lambda x: 0 < x < math.inf, "above 0, and finite"),
    "presence_penalty": Number(0.0, math.isfinite, "finite"),
    "frequency_penalty": Number(0.0, math.isfinite, "finite"),
}
# Of these `None` stands for the neutral value.
_CUTS = ("top_k", "top_p", "min_p", "typical_p")


def checked_number(name: str, value: Any, said: str | None = None) -> Any:
    """`value` as a Python number, as a float32 array of one per row, or `None` for no cut.

    Args:
        name: a key of `NUMBERS`.
        value: what a user gave.
        said: the user's name for it, where that is another.

    Raises:
        TypeError: neither a number nor a list of numbers.
        ValueError: out of range, NaN included; says which row.

    >>> checked_number("top_p", 0.5), checked_number("top_p", [0.5, 1]).tolist()
    (0.5, [0.5, 1.0])
    """
    said, allowed = said or name, NUMBERS[name]
    if value is None and name in _CUTS:
        return None
    if is_number(value):
        if not allowed.fits(value):
            raise ValueError(f"{said} must be {allowed.range}, not {value!r}.")
        return int(value) if name == "top_k" and value < math.inf else float(value)
    rows = keras.ops.convert_to_numpy(value).tolist() if hasattr(value, "shape") else value
    if not isinstance(rows, (list, tuple)) or not rows or not all(map(is_number, rows)):
        raise TypeError(f"{said} must be a number, or a list of one number per row, not {value!r}.")
    for row, number in enumerate(rows):
        if not allowed.fits(number):
            raise ValueError(f"{said} must be {allowed.range}, not {number!r} (row {row}).")
    return np.array(rows, "float32")


def is_neutral(name: str, value: Any) -> bool:
    """Whether a checked number is one for all rows that changes nothing."""
    return value is None or (is_number(value) and value == NUMBERS[name].neutral)


def is_number(x: Any) -> bool:
    """Whether it is one real number; true and false are none."""
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def checked_count(said: str, value: Any) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{said} must be a whole number of at least 1, not {value!r}.")
    return int(value)
