"""A matrix as whole numbers and scales.

N outputs, K inputs, B blocks of inputs.
"""

import math
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (so that NumPy knows "bfloat16")
import numpy as np

_ROWS = 4096  # of a matrix that are rounded together: a table's copies must not fill the memory
_RANGES = {"int8": (-127, 127), "int4": (-8, 7)}
_FURTHEST = {"int8": 127, "int4": -8}  # where the number of the largest magnitude goes


class WholeNumbers(NamedTuple):
    """weight = value * scale. `scales` are for whole outputs, or for equal blocks of inputs."""

    mode: str  # "int8" (-127 to 127) or "int4" (-8 to 7)
    values: np.ndarray  # int8 NK
    scales: np.ndarray  # float32 N1 or NB
    block: int | None = None  # inputs of a block; the last one may be shorter

    def floats(self) -> np.ndarray:
        """The weights, float32 NK."""
        inputs = self.values.shape[1]
        scales = np.repeat(self.scales, self.block or inputs, axis=1)[:, :inputs]
        return self.values * scales


def rounded(
    weights_NK: np.ndarray, mode: str, block: int | None = None, dtype: str = "float32"
) -> WholeNumbers:
    """The nearest whole numbers, by the largest magnitude that shares a scale.

    Scales are numbers of `dtype`, and those of blocks of float16 as well, before the values are
    chosen for them: however they are kept, they cost no precision.

    >>> made = rounded(np.array([[1.0, -0.5, 0.25]]), "int4")
    >>> made.values.tolist(), made.scales.tolist()
    ([[-8, 4, -2]], [[-0.125]])
    """
    outputs, inputs = weights_NK.shape
    size = block or inputs
    values = np.empty((outputs, inputs), "int8")
    scales = np.empty((outputs, math.ceil(inputs / size)), "float32")
    for first in range(0, outputs, _ROWS):
        rows = slice(first, first + _ROWS)
        wide = np.asarray(weights_NK[rows], "float32")
        if not np.isfinite(wide).all():
            raise ValueError("Weights to be quantized must be finite numbers.")
        values[rows], scales[rows] = _rounded(wide, mode, size, block is not None, dtype)
    return WholeNumbers(mode, values, scales, block)


def _rounded(weights_NK, mode, size, in_blocks, dtype):
    outputs, inputs = weights_NK.shape
    padded = np.pad(weights_NK, [(0, 0), (0, -inputs % size)]).reshape(outputs, -1, size)
    place = np.abs(padded).argmax(-1)[..., None]
    largest = np.take_along_axis(padded, place, -1)[..., 0]
    sign = np.sign(largest) * -1 if mode == "int4" else 1
    size_of_step = np.abs(largest) / abs(_FURTHEST[mode])
    if in_blocks:
        scales = sign * _kept(_kept(size_of_step, "float16", up=True), dtype, up=True)
        inverse = _inverse(scales)
    else:  # Keras keeps the inverse of the scale, and divides by it
        inverse = sign * _kept(_inverse(size_of_step), dtype, up=False)
        scales = _inverse(inverse)
    low, high = _RANGES[mode]
    values = np.clip(np.round(padded * inverse[..., None]), low, high)
    return values.reshape(outputs, -1)[:, :inputs], scales


def _inverse(x):
    return np.divide(1, x, out=np.zeros_like(x), where=x != 0)


def _kept(scales, dtype, up):
    """The next numbers of the type in which scales are kept, so that no value leaves its range."""
    if dtype == "float32":
        return scales
    kept = scales.astype(dtype)
    wide = kept.astype("float32")
    wrong = wide < scales if up else wide > scales
    step = np.where(wrong, 1 if up else -1, 0).astype("int16")  # of positive numbers: the next bits
    return (kept.view("int16") + step).view(kept.dtype).astype("float32")
