"""Named tensors in a file or folder: what every format's reader looks like to the rest."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from keras_gemma.conversion.weight_map import Shape


class Stored(NamedTuple):
    """A tensor as a file's header describes it."""

    shape: Shape
    dtype: str  # "float32", "bfloat16", …; for formats of blocks the block's name


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
