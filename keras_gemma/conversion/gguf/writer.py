"""Writes a GGUF file, one tensor after another, so that it is whole or not there."""

import contextlib
import math
import os
import secrets
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_gemma.conversion.gguf import blocks as gguf_blocks
from keras_gemma.conversion.gguf.header import (
    ALIGNMENT,
    ARRAY,
    FLOATS,
    MAGIC,
    SCALARS,
    TEXT,
    TYPES,
    block_of,
)
from keras_gemma.conversion.tensors import Writable
from keras_gemma.conversion.weight_map import Shape

# By the names that dtypes have elsewhere: "bfloat16", "q8_0", and GGUF's own.
TYPE_NAMES = {dtype.name: name for name, dtype in FLOATS.items()}
TYPE_NAMES |= {name.lower(): name for name in (*FLOATS, *gguf_blocks.WRITTEN)}
TYPE_NAMES |= {name: name for name in (*FLOATS, *gguf_blocks.WRITTEN)}
_NUMBERS = {name: number for number, name in TYPES.items()}
_KINDS = {letter: number for number, letter in SCALARS.items()}
_LONGEST_NAME = 63  # bytes, in ggml


def write_gguf(path: str | Path, metadata: Mapping[str, Any], tensors: Iterable[Writable]) -> None:
    """Write a GGUF file (version 3, little-endian); it appears whole or not at all.

    Args:
        path: the file; one that exists is replaced.
        metadata: keys and values: texts, booleans, whole numbers (stored as uint32 where they
            fit), real ones (float32), lists of one of these (whole numbers as int32), and NumPy's
            arrays and numbers, which keep their type.
        tensors: with `dtype` a float type or a GGUF type such as `"Q8_0"`. Numbers are asked for
            one tensor after another, and rounded to that type.

    Raises:
        ValueError: if a name, a shape or a value can't be stored; the tensor is named.
    """
    path, listed = Path(path), [t._replace(dtype=_type(t)) for t in tensors]
    header = _header(metadata, listed)
    part = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
    try:
        with part.open("xb") as file:
            file.write(header + bytes(-len(header) % ALIGNMENT))
            for tensor in listed:
                for raw in _encoded(tensor):
                    file.write(raw)
                file.write(bytes(-_size(tensor) % ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a folder can't be brought to the disk on Windows
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def type_for(shape: Shape, wanted: str) -> str:
    """The type a tensor is stored in where `wanted` is asked for, as llama.cpp's converter has it.

    Norms and other vectors stay in F32; rows that are no whole number of blocks go to F16.

    >>> type_for((256, 2048), "q8_0"), type_for((256, 40), "q8_0"), type_for((256,), "bfloat16")
    ('Q8_0', 'F16', 'F32')
    """
    if len(shape) < 2:
        return "F32"
    name = TYPE_NAMES[wanted]
    return "F16" if shape[-1] % block_of(name)[0] else name


def _type(tensor):
    """The name of a tensor's GGUF type; its name and shape are seen to be storable."""
    if tensor.dtype not in TYPE_NAMES:
        raise ValueError(
            f"The tensor {tensor.name!r} can't be written as {tensor.dtype!r}, but as one of "
            f"{', '.join((*FLOATS, *gguf_blocks.WRITTEN))}."
        )
    type_name = TYPE_NAMES[tensor.dtype]
    if not 0 < len(tensor.name.encode()) <= _LONGEST_NAME:
        raise ValueError(f"{tensor.name!r} must have 1 to {_LONGEST_NAME} bytes to be a name.")
    if not 1 <= len(tensor.shape) <= 4 or not all(tensor.shape):
        raise ValueError(f"The tensor {tensor.name!r} must have 1 to 4 axes, not {tensor.shape}.")
    if tensor.shape[-1] % block_of(type_name)[0]:
        raise ValueError(
            f"The tensor {tensor.name!r} {tensor.shape} has rows that are no whole number of "
            f"{block_of(type_name)[0]}, so it can't be {type_name}; use F16."
        )
    return type_name


def _size(tensor):
    numbers, size = block_of(tensor.dtype)
    return math.prod(tensor.shape) // numbers * size


def _header(metadata, tensors):
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ValueError("Two tensors have one name.")
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _value(key, value)]
    offset = 0
    for tensor in tensors:
        axes = [len(tensor.shape), *tensor.shape[::-1]]
        parts += [_text(tensor.name), struct.pack(f"<I{len(tensor.shape)}Q", *axes)]
        parts.append(struct.pack("<IQ", _NUMBERS[tensor.dtype], offset))
        offset += -(-_size(tensor) // ALIGNMENT) * ALIGNMENT
    return b"".join(parts)


def _text(text):
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(key, value):
    """A value with its type in front of it."""
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + _text(value)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return struct.pack("<IIQ", ARRAY, TEXT, len(value)) + b"".join(map(_text, value))
    array = np.asarray(value)
    if isinstance(value, (int, float, list)) and array.dtype.kind in "if":
        array = _narrowed(array)  # NumPy's own arrays and numbers keep their type
    letter = {"l": "q", "L": "Q"}.get(array.dtype.char, array.dtype.char)
    if letter not in _KINDS or array.ndim > 1 or not array.size:
        shown = repr(value)[:60]
        raise ValueError(f"The key {key!r} can't hold {type(value).__name__} {shown}.")
    array = array.astype(array.dtype.newbyteorder("<"))
    kind = struct.pack("<I", _KINDS[letter])
    if array.ndim:
        kind = struct.pack("<I", ARRAY) + kind + struct.pack("<Q", array.size)
    return kind + array.tobytes()


def _narrowed(array):
    """The type that llama.cpp awaits: it reads a key of another one as an error."""
    if array.dtype.kind == "f":
        return array.astype("float32")
    for name in ("int32",) if array.ndim else ("uint32", "int32"):
        limits = np.iinfo(name)
        if array.size and limits.min <= array.min() and array.max() <= limits.max:
            return array.astype(name)
    return array


def _encoded(tensor):
    """The bytes of a tensor, a chunk at a time."""
    array = tensor.numbers()
    if tuple(array.shape) != tuple(tensor.shape):
        raise ValueError(
            f"The tensor {tensor.name!r} is {array.shape}, and {tuple(tensor.shape)} was awaited."
        )
    flat = np.ascontiguousarray(array).reshape(-1)
    for first in range(0, flat.size, gguf_blocks.CHUNK):
        yield _rounded(flat[first : first + gguf_blocks.CHUNK], tensor).tobytes()


def _rounded(chunk, tensor):
    dtype = FLOATS.get(tensor.dtype)
    if chunk.dtype == dtype:
        return chunk
    chunk = chunk.astype("float32", copy=False)
    if dtype == np.float32:
        return chunk
    is_block = dtype is None
    largest = gguf_blocks.BLOCKS[tensor.dtype].largest if is_block else _LARGEST[tensor.dtype]
    if not np.abs(chunk).max() <= largest:  # true of NaN, too
        raise ValueError(
            f"The tensor {tensor.name!r} holds numbers that are not finite or over {largest:.3g}, "
            f"which {tensor.dtype} can't hold. Write it as F32."
        )
    return gguf_blocks.quantize(tensor.dtype, chunk) if is_block else chunk.astype(dtype)


_LARGEST = {"F16": 65504.0, "BF16": float(np.uint32(0x7F7F0000).view("float32"))}
