"""Weights in the order in which products read them."""

import dataclasses
import functools
import os
import sys
from typing import Any

import numpy as np

from keras_gemma_kernels import _native
from keras_gemma_kernels.memory import aligned
from keras_gemma_kernels.trees import register_trees, tree

_PANELS = ("float32", "bfloat16", "int8", "int8_channel", "int4")
_ROWS = {"float32_rows": "float32", "bfloat16_rows": "bfloat16"}
_KINDS = {name: number for number, name in enumerate((*_PANELS, *_ROWS))}
_RANGES = {"int8": (-127, 127), "int4": (-8, 7)}
BLOCK = 32  # inputs that share a scale
_PANEL = 32


@tree("dtype", "shape")
@dataclasses.dataclass(frozen=True)
class Packed:
    """A weight matrix [outputs, inputs]: in panels of 32 outputs, made by `pack`, or `as_stored`.

    data: uint8 [panels, bytes], an array of NumPy, JAX or PyTorch. In JAX a Packed is a tree with
        this one leaf, and goes through `jit` and into loops as an argument.
    dtype: float32, bfloat16, int8, int8_channel (one scale an output) or int4; float32_rows or
        bfloat16_rows, whose data are the matrix itself.
    shape: (outputs, inputs).
    """

    data: Any
    dtype: str
    shape: tuple[int, int]

    def __post_init__(self):
        register_trees()

    @property
    def kind(self) -> int:
        return _KINDS[self.dtype]

    @property
    def nbytes(self) -> int:
        count = int(np.prod(data_shape(self.dtype, *self.shape)))
        return count * {"float32_rows": 4, "bfloat16_rows": 2}.get(self.dtype, 1)

    @functools.cached_property
    def native(self) -> _native.Packed:
        """For calls by pointer: NumPy and PyTorch."""
        self.check()
        return _native.Packed(weight_pointer("packed.data", self.data), self.kind, *self.shape)

    def check(self) -> None:
        """See that the data are those of such a matrix, or a product would read beyond them."""
        data, dtype = self.data, _ROWS.get(self.dtype, "uint8")
        right = tuple(data.shape) == data_shape(self.dtype, *self.shape)
        if not right or str(data.dtype).removeprefix("torch.") != dtype:
            raise ValueError(f"packed.data is {data.dtype} {list(data.shape)}, not what pack made.")


def data_shape(dtype: str, outputs: int, inputs: int) -> tuple[int, int]:
    if dtype in _ROWS:
        return outputs, inputs
    return -(-outputs // _PANEL), _native.library().kg_panel_bytes(_KINDS[dtype], inputs)


def pack(weights, dtype: str = "float32", *, scales=None, block: int | None = BLOCK) -> Packed:
    """Weights [outputs, inputs] packed for the products, as an array of the same framework.

    Float weights are rounded to `dtype`: float32, bfloat16, int8 or int4 (by their largest
    magnitude in each `block` of 32 inputs; `block=None` with int8: in each output).

    Weights that are quantized already are taken as they are: int8 values (int4 too: one a byte) with
    `scales` of [outputs] or of [outputs, inputs / 32, rounded up]. Scales of blocks are kept as
    float16.

    >>> weights = np.random.default_rng(0).standard_normal((64, 96), "float32")
    >>> pack(weights, "int8").nbytes / weights.nbytes
    0.265625
    """
    if dtype not in ("float32", "bfloat16", "int8", "int4"):
        raise ValueError(f"dtype must be float32, bfloat16, int8 or int4, not {dtype!r}.")
    if block not in (BLOCK, None) or (block is None and dtype == "int4"):
        raise ValueError(f"block={block} is not known to {dtype}: scales go with 32 inputs each.")
    array, source = _as_numpy(weights)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"weights must be of shape [outputs, inputs], not {list(array.shape)}.")
    outputs, inputs = array.shape
    scale_pointer, blocks = None, 0
    if scales is not None:
        source = 2
        scales, blocks = _check_quantized(array, scales, dtype)
        scale_pointer = scales.ctypes.data
        if blocks == 1 and dtype == "int8" and (inputs > BLOCK or scales.ndim == 1):
            block = None
    elif array.dtype == np.int8:
        raise ValueError("int8 weights are quantized: pass their scales as well.")
    elif dtype in _RANGES:
        _check_finite(array, source)
    if dtype == "int8" and block is None:
        dtype = "int8_channel"
    data = aligned(data_shape(dtype, outputs, inputs))
    shape = _native.Packed(0, _KINDS[dtype], outputs, inputs)
    _native.library().kg_pack(
        shape, source, array.ctypes.data, scale_pointer, blocks, data.ctypes.data, threads()
    )
    return Packed(_like(weights, data), dtype, (outputs, inputs))


def as_stored(weights) -> Packed:
    """Weights [outputs, inputs], float32 or bfloat16, to be read where they are: nothing is copied.

    For an embedding table, which is looked up and multiplied by and as large as all else; products
    read such rows a little slower than panels.

    >>> table = np.eye(40, 7, dtype="float32")
    >>> as_stored(table).data is table
    True
    """
    dtype = str(weights.dtype).removeprefix("torch.")
    if weights.ndim != 2 or 0 in weights.shape or f"{dtype}_rows" not in _ROWS:
        raise ValueError(
            f"weights must be float32 or bfloat16 [outputs, inputs], not {dtype} "
            f"{list(weights.shape)}."
        )
    return Packed(weights, f"{dtype}_rows", tuple(map(int, weights.shape)))


def _check_quantized(values, scales, dtype):
    if dtype not in _RANGES or values.dtype != np.int8:
        raise ValueError(
            f"scales go with int8 values packed as int8 or int4, not {values.dtype} as {dtype}."
        )
    low, high = _RANGES[dtype]
    if values.min() < low or values.max() > high:
        raise ValueError(
            f"values for {dtype} must be in {low}..{high}, not {values.min()}..{values.max()}."
        )
    scales = np.ascontiguousarray(np.asarray(_as_numpy(scales)[0], "float32"))
    outputs, blocks = values.shape[0], -(-values.shape[1] // BLOCK)
    if scales.shape not in ((outputs,), (outputs, 1), (outputs, blocks)):
        raise ValueError(
            f"scales must be of shape [{outputs}] or [{outputs}, {blocks}], not "
            f"{list(scales.shape)}."
        )
    per_output = scales.size == outputs
    as_half = dtype == "int4" or not per_output
    if not np.isfinite(scales).all() or (as_half and np.abs(scales).max() > 65504):
        raise ValueError("scales must be finite, and of blocks at most 65504 (float16).")
    return scales, 1 if per_output else blocks


def _check_finite(array, source):
    if source:  # bfloat16's bits: those of infinity and NaN are the highest
        fine = (array & 0x7FFF).max() < 0x7F80
    else:
        fine = np.isfinite(array.min()) and np.isfinite(array.max())
    if not fine:
        raise ValueError("weights to be quantized must be finite.")


def _as_numpy(array):
    """A C-contiguous float32, int8 or (as uint16, source 1) bfloat16 array of the same numbers."""
    if is_torch(array):
        import torch

        array = array.detach().contiguous().cpu()
        if array.dtype == torch.bfloat16:
            return array.view(torch.int16).numpy().view("uint16"), 1
        array = array.numpy()
    array = np.ascontiguousarray(array)
    if array.dtype.name == "bfloat16":
        return array.view("uint16"), 1
    if array.dtype == np.int8 or array.dtype == np.float32:
        return array, 0
    if array.dtype.kind != "f":
        raise ValueError(f"weights must be floats, or int8 with scales, not {array.dtype}.")
    return array.astype("float32"), 0


def _like(weights, data):
    if is_torch(weights):
        import torch

        return torch.from_numpy(data)
    if is_jax(weights):
        import jax.numpy as jnp

        return jnp.asarray(data)  # takes the memory as it is, aligned as it is
    return data


def is_torch(array) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_jax(array) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def weight_pointer(name, array) -> int:
    """Where an array of NumPy or PyTorch lies, if the library can read it there."""
    if is_torch(array):
        if array.is_cpu and array.is_contiguous():
            return array.data_ptr()
        raise ValueError(f"{name} must be contiguous and on the CPU, not on {array.device}.")
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is of {type(array).__module__}, the activations are not.")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be contiguous.")
    return array.ctypes.data


@functools.cache
def threads() -> int:
    """Threads for callers that bring none: the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
