"""GGUF, the one-file format of llama.cpp, read: one tensor at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_gemma.conversion.gguf import blocks as gguf_blocks
from keras_gemma.conversion.gguf.header import FLOATS, block_of, read_header
from keras_gemma.conversion.tensors import Stored
from keras_gemma.conversion.weight_map import Shape
from keras_gemma.presets.errors import BadPresetError


class GGUFFile:
    """A GGUF file's keys, and its tensors by name.

    The header is read and checked when it is opened; of the numbers, those of one tensor at a time.

        file = GGUFFile("gemma-2b.gguf")
        file.metadata["gemma.block_count"]
        file.type_name("token_embd.weight"), file.read("token_embd.weight")

    Attributes:
        path: the file.
        metadata: its keys; texts and lists of them, numbers, and arrays of numbers as NumPy's.

    Raises:
        BadPresetError: if it is truncated, damaged, or of a type that is not read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.metadata, self._tensors = read_header(self.path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> Shape:
        """A tensor's axes, slowest first as in NumPy; the file has them the other way round."""
        return self._stored(name).shape

    def type_name(self, name: str) -> str:
        """`"F32"`, `"BF16"`, `"Q8_0"`, …"""
        return self._stored(name).type_name

    def headers(self) -> dict[str, Stored]:
        """Every tensor there is; floats by the name that NumPy has for them."""
        return {
            name: Stored(shape, FLOATS[kind].name if kind in FLOATS else kind)
            for name, (shape, kind, _, _) in self._tensors.items()
        }

    def read(self, name: str) -> np.ndarray:
        """The numbers of one tensor: float32, float16 or bfloat16; blocks come as float32."""
        shape, kind, start, size = self._stored(name)
        with self.path.open("rb") as file:
            file.seek(start)
            if kind in FLOATS:
                array = np.empty(shape, FLOATS[kind])
                self._fill(file, array.reshape(-1).view("uint8"), name)
                return array
            array = np.empty(shape, "float32")
            numbers, block_size = block_of(kind)
            per_chunk = gguf_blocks.CHUNK // numbers
            raw, flat, done = np.empty(per_chunk * block_size, "uint8"), array.reshape(-1), 0
            for first in range(0, size, raw.size):
                part = raw[: min(raw.size, size - first)]
                self._fill(file, part, name)
                count = part.size // block_size * numbers
                gguf_blocks.dequantize(kind, part, flat[done : done + count])
                done += count
            return array

    def _stored(self, name):
        if name not in self._tensors:
            raise BadPresetError(f"{self.path} has no tensor {name!r}.")
        return self._tensors[name]

    def _fill(self, file, raw, name):
        if file.readinto(memoryview(raw)) != raw.size:  # cut since the header was read
            raise BadPresetError(f"{self.path} ends within the tensor {name!r}. Get it again.")
