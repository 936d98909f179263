"""The weights of a KerasHub preset, whichever release wrote them: under one kind of name, as floats.

Quantized layers hold whole numbers in `vars/0` and in `vars/1`, …

    int8                a scale per output: weight = number / scale
    int4                two numbers per byte, and a scale per output: the same
    int4 in blocks      … and scale, zero point and block of each row: (number - zero) * scale
"""

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.keras_hub.h5_file import H5Tensors
from keras_gemma.conversion.tensors import Quantized, Stored
from keras_gemma.conversion.weight_map import Entry, Shape
from keras_gemma.presets.errors import BadPresetError

# What weights files of whole tasks, and of Keras before 3, have in front.
_PREFIXES = ("layers/gemma_backbone/", "layers/gemma3_backbone/", "_backbone/")
_FLOATS = (*DTYPES, "float64")
_OLD_LAYERS = "_layer_checkpoint_dependencies/"
# Over which axes of ours a scale goes, by the end of the weight's path.
_REDUCED = {
    "attention/attention_output/kernel": (0, 1),
    "attention/query/kernel": (1,),
    "attention/key/kernel": (1,),
    "attention/value/kernel": (1,),
    "embeddings": (1,),
}


class KerasHubTensors:
    """Weights by the names of today's KerasHub, quantized ones as floats.

    Args:
        tensors: the arrays of the files.
        awaited: what the model's table says, to tell how a layer is quantized.
    """

    def __init__(self, tensors: H5Tensors, awaited: Iterable[Entry]):
        self.path = tensors.path
        self._tensors = tensors
        self._names: dict[str, str] = {}
        for name in tensors.headers():
            plain = plain_name(name)
            if plain in self._names:
                raise BadPresetError(f"{self.path}: {plain} is there twice.")
            self._names[plain] = name
        stored = tensors.headers()
        self._stored = {plain: stored[name] for plain, name in self._names.items()}
        self._quantized: dict[str, Entry] = {}
        self._parts: set[str] = set()
        for entry in awaited:
            dtype = self._stored.get(entry.theirs, Stored((), "float32")).dtype
            if dtype == "int8":
                self._check(entry)
            elif dtype not in _FLOATS:
                raise BadPresetError(f"{self.path}: {entry.theirs} holds {dtype}: no weights.")

    def headers(self) -> dict[str, Stored]:
        """Every weight there is, as `read` gives it."""
        return {
            name: Stored(self._quantized[name].shape, "float32")
            if name in self._quantized
            else stored
            for name, stored in self._stored.items()
            if name not in self._parts
        }

    def read(self, name: str) -> np.ndarray:
        """The numbers of one weight."""
        numbers = self._read(name)
        entry = self._quantized.get(name)
        if entry is None:
            return numbers
        scale = self._read(_part(name, 1)).astype("float32")
        reduced = _reduced(entry)
        if numbers.shape == entry.shape:
            return numbers / scale.reshape(_kept(entry.shape, reduced))
        axis = 1 if _is_table(entry) else 0  # along which a block has one scale
        numbers = _unpacked(numbers, _flat(entry)[1]).astype("float32")
        if _part(name, 3) not in self._stored:
            return (numbers / np.expand_dims(scale, axis)).reshape(entry.shape)
        zero = self._read(_part(name, 2)).astype("float32")
        block = self._read(_part(name, 3)).astype("int64")
        if block.min() < 0 or block.max() >= scale.shape[axis]:
            raise BadPresetError(f"{self.path}: {name} has rows in blocks that are not there.")
        numbers -= zero.take(block, axis)
        numbers *= scale.take(block, axis)
        return numbers.reshape(entry.shape)

    def quantized(self) -> dict[str, Quantized]:
        """The weights that are whole numbers, by our path; `read` of them gives floats."""
        found = {}
        for name, entry in self._quantized.items():
            form = self._form(name, entry)
            if form:
                path = entry.parts[0].path
                found[path] = Quantized(*form, name, partial(self._parts_of, name))
        return found

    def _form(self, name, entry):
        """`(mode, size of a block)`; none where blocks are of unlike sizes."""
        if self._stored[name].shape == entry.shape:
            return "int8", None
        if _part(name, 3) not in self._stored:
            return "int4", None
        # The size of a block is not written down, and the last one may be shorter.
        blocks = self._read(_part(name, 3)).astype("int64")
        size = int((blocks == 0).sum())
        regular = size > 0 and (blocks == np.arange(len(blocks)) // size).all()
        return ("int4", size) if regular else None

    def _parts_of(self, name):
        parts = [part for number in range(4) if (part := _part(name, number)) in self._stored]
        return [self._read(part) for part in parts]

    def _read(self, plain):
        return self._tensors.read(self._names[plain])

    def _check(self, entry):
        """See that all the parts of a quantized weight are there, each in its shape."""
        name, shapes = entry.theirs, {}
        for number in range(1, 4):
            if (part := _part(name, number)) in self._stored:
                shapes[number] = self._stored[part].shape
        rows, columns = _flat(entry)
        packed: Shape = (rows, -(-columns // 2))
        outputs = [n for axis, n in enumerate(entry.shape) if axis not in _reduced(entry)]
        count = int(np.prod(outputs))
        own, scale = self._stored[name].shape, shapes.get(1, ())
        if own == entry.shape:
            good = list(shapes) == [1] and int(np.prod(scale)) == count
        elif list(shapes) == [1]:
            good = own == packed and scale == (count,)
        else:
            outer, inner = (rows, columns) if _is_table(entry) else (columns, rows)
            good = (
                list(shapes) == [1, 2, 3]
                and own == packed
                and len(scale) == 2
                and scale[0 if _is_table(entry) else 1] == outer
                and shapes[2] == scale
                and shapes[3] == (inner,)
            )
        if not good:
            raise BadPresetError(
                f"{self.path}: {name} {own} with {list(shapes.values())} beside it is quantized in a "
                "way that is not read; int8 and int4 of KerasHub 0.32 are."
            )
        self._quantized[name] = entry
        self._parts |= {_part(name, number) for number in shapes}


def plain_name(name: str) -> str:
    """The name that today's KerasHub gives an array.

    >>> plain_name("layers/gemma_backbone/layers/rms_normalization/vars/0")
    'layers/rms_normalization/vars/0'
    """
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if name.startswith(_OLD_LAYERS):
        return "layers/" + name.removeprefix(_OLD_LAYERS)
    return name


def stored_dtype(headers: Mapping[str, Stored]) -> str | None:
    """What weights that are not quantized are stored as."""
    final = headers.get("layers/rms_normalization/vars/0")
    return final.dtype if final else None


def _part(name, number):
    return f"{name.removesuffix('/0')}/{number}"


def _reduced(entry):
    path = entry.parts[0].path
    return next((axes for end, axes in _REDUCED.items() if path.endswith(end)), (0,))


def _is_table(entry):
    """Whether outputs are rows, as in the embedding table, and not columns."""
    return entry.parts[0].path.endswith("embeddings")


def _kept(shape, reduced):
    return [1 if axis in reduced else n for axis, n in enumerate(shape)]


def _flat(entry):
    """Rows and columns in which four-bit numbers lie: a kernel's inputs and outputs."""
    if _is_table(entry):
        return entry.shape
    rows = int(np.prod([entry.shape[axis] for axis in _reduced(entry)]))
    return rows, int(np.prod(entry.shape)) // rows


def _unpacked(packed, columns):
    """Two numbers from -8 to 7 of each byte: the lower half first."""
    low, high = (packed << 4) >> 4, packed >> 4  # of int8: the sign is kept
    return np.stack([low, high], -1).reshape(len(packed), -1)[:, :columns]
