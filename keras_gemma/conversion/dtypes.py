"""Numbers that files hold: names of their types, and whether they are finite."""

import ml_dtypes
import numpy as np

# By the name that Keras gives it.
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_CHUNK = 2**20  # numbers looked at together: they stay in the processor's cache
_EXPONENT = {2: {"float16": 0x7C00, "bfloat16": 0x7F80}, 4: {"float32": 0x7F80_0000}}


def first_not_finite(array: np.ndarray) -> tuple[int, ...] | None:
    """The place of the first number that is infinite or none; `None` if all are finite.

    >>> first_not_finite(np.array([[0.0, 1.0], [np.nan, 2.0]], "float32"))
    (1, 0)
    """
    mask = _EXPONENT.get(array.dtype.itemsize, {}).get(array.dtype.name)
    if mask is None:  # whole numbers
        return None
    # The bits of the exponent are all ones just then; NumPy's isfinite is slow for bfloat16.
    bits = array.reshape(-1).view(f"uint{8 * array.dtype.itemsize}")
    for start in range(0, bits.size, _CHUNK):
        chunk = bits[start : start + _CHUNK] & bits.dtype.type(mask)
        if chunk.max() == mask:
            found = start + int(np.argmax(chunk == mask))
            return tuple(int(place) for place in np.unravel_index(found, array.shape))
    return None
