"""The header of a GGUF file, read with suspicion: nothing is allocated that the file can't fill.

"GGUF", version, number of tensors, number of keys
keys                each a name, a type, a value
tensors             each a name, its axes (fastest first), a type, where its numbers begin
numbers             each tensor's begin at a multiple of the alignment
"""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.gguf.blocks import BLOCKS
from keras_gemma.conversion.weight_map import Shape
from keras_gemma.presets.errors import BadPresetError

MAGIC = b"GGUF"
ALIGNMENT = 32  # where `general.alignment` says nothing
# By the number that stands in the file: a struct's letter and NumPy's type, text, or an array.
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
TEXT, ARRAY = 8, 9
FLOATS = {"F32": DTYPES["float32"], "F16": DTYPES["float16"], "BF16": DTYPES["bfloat16"]}
TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 6: "Q5_0", 8: "Q8_0", 12: "Q4_K", 14: "Q6_K", 30: "BF16"}
# Of these it is said by name that they are not read.
OTHER_TYPES = dict(
    zip(
        [3, 7, 9, 10, 11, 13, 15, *range(16, 30), 34, 35, 39, 40, 41],
        "Q4_1 Q5_1 Q8_1 Q2_K Q3_K Q5_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS "
        "I8 I16 I32 I64 F64 IQ1_M TQ1_0 TQ2_0 MXFP4 NVFP4 Q1_0".split(),
        strict=True,
    )
)
# Gemma 3's header has 7 MB, 262,144 strings, some 50 keys and 800 tensors.
MOST_BYTES, MOST_STRINGS, MOST_ENTRIES = 2**26, 2**20, 2**14


class Header(NamedTuple):
    """What a GGUF file says of itself."""

    metadata: dict[str, Any]
    tensors: dict[str, "StoredTensor"]


class StoredTensor(NamedTuple):
    """Where a tensor lies."""

    shape: Shape  # slowest axis first, as in NumPy
    type_name: str
    start: int  # byte of the file
    size: int  # bytes


def block_of(type_name: str) -> tuple[int, int]:
    """`(numbers, bytes)` that belong together in a type.

    >>> block_of("F16"), block_of("Q8_0")
    ((1, 2), (32, 34))
    """
    if type_name in FLOATS:
        return 1, FLOATS[type_name].itemsize
    return BLOCKS[type_name].numbers, BLOCKS[type_name].size


def read_header(path: Path) -> Header:
    """Keys and tensors of a file, each seen to lie within it.

    Raises:
        BadPresetError: naming the file, and the key or tensor that is wrong.
    """
    try:
        with path.open("rb", buffering=2**20) as file:
            return _Reader(file, path).header()
    except OSError as error:
        raise BadPresetError(f"{path} can't be read: {error.strerror}.") from None


class _Reader:
    """Reads fields one after another; each length is compared with what is left of the file."""

    def __init__(self, file, path):
        self.file, self.path = file, path
        self.file_size = path.stat().st_size
        self.left = min(self.file_size, MOST_BYTES)
        self.strings_left = MOST_STRINGS

    def header(self):
        if (magic := self.take(4, "the first four bytes")) != MAGIC:
            raise self.error(f"it starts with {magic!r}, and a GGUF file with {MAGIC!r}")
        version = self.number("I", "the version")
        if version > 0xFFFF:
            raise self.error("it was written for big-endian machines; convert it anew on this one")
        if version not in (2, 3):
            raise self.error(f"its version is {version}; 2 and 3 are read. Convert it anew")
        tensors, keys = self.number("Q", "the counts"), self.number("Q", "the counts")
        # The least that a key or a tensor takes: a name of one letter, its type, its value.
        self.fits(keys, 14, "keys", MOST_ENTRIES)
        self.fits(tensors, 33, "tensors", MOST_ENTRIES)
        metadata = {}
        for _ in range(keys):
            key = self.text("the name of a key")
            if key in metadata or not key:
                raise self.error(f"the key {_shown(key)} is there twice, or has no name")
            metadata[key] = self.value(self.number("I", "a type"), _shown(key))
        if metadata.get("split.count", 1) not in (0, 1):  # 0 once parts were joined
            raise self.error(
                "it is one part of a model that was split. Join the parts with llama.cpp's "
                "`llama-gguf-split --merge` and load the result"
            )
        infos = self.infos(tensors)
        return Header(metadata, self.placed(infos, metadata.get("general.alignment", ALIGNMENT)))

    def infos(self, count):
        """`name -> (shape, type, offset)`."""
        infos = {}
        for _ in range(count):
            name = self.text("the name of a tensor")
            shown = _shown(name)
            if name in infos or not name:
                raise self.error(f"the tensor {shown} is there twice, or has no name")
            axes = self.number("I", shown)
            if not 1 <= axes <= 4:
                raise self.error(f"the tensor {shown} has {axes} axes; it may have 1 to 4")
            shape = struct.unpack(f"<{axes}Q", self.take(8 * axes, shown))[::-1]
            number, offset = self.number("I", shown), self.number("Q", shown)
            if number not in TYPES:
                known = OTHER_TYPES.get(number, f"number {number}")
                raise self.error(
                    f"the tensor {shown} is of type {known}; read are {', '.join(TYPES.values())}"
                )
            infos[name] = shape, TYPES[number], offset
        return infos

    def placed(self, infos, alignment):
        """The tensors, seen to lie one behind the other as ggml asks for: no gap, no overlap."""
        if type(alignment) is not int or not 8 <= alignment <= 2**16 or alignment % 8:
            raise self.error(f"the alignment is {alignment!r}; it must be a multiple of 8")
        found, awaited, begin = {}, 0, -(-self.file.tell() // alignment) * alignment
        for name, (shape, type_name, offset) in infos.items():
            numbers, size = block_of(type_name)
            shown = f"the tensor {_shown(name)} {shape} {type_name}"
            if not all(shape):
                raise self.error(f"{shown} has an axis of no length")
            if shape[-1] % numbers:
                raise self.error(f"{shown} has rows that are no whole number of {numbers}")
            size *= math.prod(shape) // numbers
            if offset != awaited:
                raise self.error(f"{shown} begins at {offset}, where {awaited} was awaited")
            if begin + offset + size > self.file_size:
                raise self.error(
                    f"{shown} ends at byte {begin + offset + size}, and the file has "
                    f"{self.file_size}: it is truncated. Get it again"
                )
            found[name] = StoredTensor(shape, type_name, begin + offset, size)
            awaited = -(-(offset + size) // alignment) * alignment
        return found

    def value(self, kind, what):
        if kind == TEXT:
            return self.text(what)
        if kind == ARRAY:
            return self.array(what)
        return self.number(self.letter(kind, what), what)

    def array(self, what):
        kind, count = self.number("I", what), self.number("Q", what)
        if kind == TEXT:
            self.fits(count, 8, f"strings of {what}", self.strings_left)
            self.strings_left -= count
            return [self.text(what) for _ in range(count)]
        dtype = np.dtype(self.letter(kind, what)).newbyteorder("<")
        self.fits(count, dtype.itemsize, f"numbers of {what}", MOST_BYTES)
        return np.frombuffer(self.take(count * dtype.itemsize, what), dtype)

    def letter(self, kind, what):
        if kind not in SCALARS:
            known = "an array of arrays" if kind == ARRAY else f"of an unknown type, {kind}"
            raise self.error(f"{what} is {known}")
        return SCALARS[kind]

    def text(self, what):
        data = self.take(self.number("Q", what), what)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{what} is a text that is not UTF-8") from None

    def number(self, letter, what):
        size = struct.calcsize(f"<{letter}")
        return struct.unpack(f"<{letter}", self.take(size, what))[0]

    def take(self, count, what):
        if count > self.left:
            raise self.error(
                f"{what} needs {count} bytes, and {self.left} are left of the file, or of the "
                f"{MOST_BYTES} that a header may have"
            )
        self.left -= count
        data = self.file.read(count)
        if len(data) != count:  # it was cut after its size was asked for
            raise self.error(f"it ends within {what}")
        return data

    def fits(self, count, least, what, most):
        if count > min(self.left // least, most):
            raise self.error(
                f"it tells of {count} {what}; there is room for {min(self.left // least, most)}"
            )

    def error(self, problem):
        return BadPresetError(f"{self.path} is no GGUF file that can be read: {problem}.")


def _shown(name):
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
