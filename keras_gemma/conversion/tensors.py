"""Named tensors in a file or folder: what every format's reader looks like to the rest."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from keras_gemma import arrays
from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.weight_map import Shape
from keras_gemma.presets import bundle
from keras_gemma.presets.errors import BadPresetError


class Stored(NamedTuple):
    """A tensor as a file's header describes it."""

    shape: Shape
    dtype: str  # "float32", "bfloat16", …; for formats of blocks the block's name


def read_at(path: Path, start: int, name: str, stored: Stored) -> np.ndarray:
    """The numbers of a tensor that lie in one piece in a file, read with no second copy.

    Raises:
        BadPresetError: the file can't be read, or ends before they do.
    """
    array = arrays.empty(stored.shape, DTYPES.get(stored.dtype, np.dtype(stored.dtype)))
    with bundle.reading(path), path.open("rb") as file:
        file.seek(start)
        found = file.readinto(array.reshape(-1).view("uint8"))
    if found != array.nbytes:
        raise BadPresetError(
            f"{path}: {name} has {array.nbytes} bytes, and {found} are there. The file is damaged, "
            "or changed while it was read."
        )
    return array


class Tensors(Protocol):
    """Tensors by name. Headers are read and seen to be sane when it is made, numbers on `read`."""

    path: Path  # of the file or folder, for errors

    def headers(self) -> Mapping[str, Stored]:
        """Every tensor there is."""
        ...

    def read(self, name: str) -> np.ndarray:
        """The numbers of one tensor; block formats come as float32."""
        ...


class Quantized(NamedTuple):
    """A weight that is stored as whole numbers, in the arrays of Keras's quantized layers."""

    mode: str  # "int8" or "int4"
    block: int | None  # inputs that share a scale; None: all of them
    theirs: str
    read: Callable[
        [], list[np.ndarray]
    ]  # numbers, scales; in blocks also zeros, and whose they are


class Writable(NamedTuple):
    """A tensor to be written: its header now, its numbers when their turn comes."""

    name: str
    shape: Shape
    dtype: str
    numbers: Callable[[], np.ndarray]


# What a writer is given: it asks for one tensor after another, and keeps none.
Writables = Iterator[Writable]
