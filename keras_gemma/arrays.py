"""NumPy arrays into a backend's memory and back, with no copy more than it needs.

What large checkpoints take is decided here: on each backend, weights that are about to be loaded
take no memory before, and one array beside them while they are.
"""

from typing import Any

import keras
import ml_dtypes  # noqa: F401  (so that NumPy knows "bfloat16")
import numpy as np

_BLOCK = 256  # numbers along an axis that are copied together
_ALIGNMENT = 64  # bytes; XLA takes an array of the host as it is if it starts at a multiple


def empty(shape: tuple[int, ...], dtype: str | np.dtype) -> np.ndarray:
    """Zeros that take no memory until they are written, where each backend may use them in place.

    >>> empty((2, 3), "bfloat16").ctypes.data % 64
    0
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype="int64")) * dtype.itemsize
    raw = np.zeros(size + _ALIGNMENT, "uint8")
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def blank(shape: tuple[int, ...], dtype: str) -> Any:
    """A tensor to be overwritten: its numbers may be anything."""
    name = keras.backend.backend()
    if name == "torch":
        import torch

        like: Any = keras.ops.zeros((), dtype)  # knows torch's name of the dtype, and the device
        return torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
    if name == "jax":
        import jax

        return jax.device_put(empty(shape, dtype))
    return keras.ops.zeros(shape, dtype)


def place(variable: Any, array: np.ndarray) -> None:
    """Give a Keras variable the numbers of an array, in the variable's dtype and sharding."""
    dtype, name = np.dtype(variable.dtype), keras.backend.backend()
    if name == "torch" and variable.dtype == "bfloat16":
        # Keras would go by way of float32, which takes twice the memory.
        import torch

        array = _contiguous(array, dtype)
        variable.assign(torch.from_numpy(array.view("int16")).view(torch.bfloat16))
    elif name == "jax":
        import jax

        if not _usable_in_place(array, dtype):
            copy = empty(array.shape, dtype)
            _copy(array, copy)
            array = copy
        variable.assign(jax.device_put(array))
    else:
        variable.assign(_contiguous(array, dtype))


def _copy(source, target):
    """`target[...] = source`, five times as fast where the axes of the source were exchanged."""
    fast = min(range(source.ndim), key=lambda axis: abs(source.strides[axis]), default=-1)
    if source.ndim < 2 or fast == source.ndim - 1:
        target[...] = source
        return
    # In blocks that the processor's cache holds: neither side is read or written across its rows.
    for first in range(0, source.shape[fast], _BLOCK):
        for last in range(0, source.shape[-1], _BLOCK):
            block: list[Any] = [slice(None)] * source.ndim
            block[fast], block[-1] = slice(first, first + _BLOCK), slice(last, last + _BLOCK)
            target[tuple(block)] = source[tuple(block)]


def _contiguous(array, dtype):
    if array.flags.c_contiguous:
        return array.astype(dtype, copy=False)
    copy = np.empty(array.shape, dtype)
    _copy(array, copy)
    return copy


def _usable_in_place(array, dtype):
    flags = array.flags
    aligned = array.ctypes.data % _ALIGNMENT == 0
    return array.dtype == dtype and flags.c_contiguous and flags.writeable and aligned


def fetch(variable: Any) -> np.ndarray:
    """The numbers of a Keras variable, in its dtype."""
    if keras.backend.backend() == "torch" and variable.dtype == "bfloat16":
        import torch

        tensor = variable.value.detach().cpu().contiguous()
        return tensor.view(torch.int16).numpy().view(np.dtype("bfloat16"))
    return np.asarray(keras.ops.convert_to_numpy(variable.value))
