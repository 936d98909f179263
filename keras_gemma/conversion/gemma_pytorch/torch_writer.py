"""Writes PyTorch's zip files, so that `torch.load(weights_only=True, mmap=True)` reads them.

The pickle in it is put together here, instruction by instruction: PyTorch is not needed.
"""

import math
import os
import secrets
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.gemma_pytorch.torch_pickle import STORAGES, Shape
from keras_gemma.conversion.tensors import Writable

_CLASSES = {dtype: name for name, dtype in STORAGES.items()}
_ALIGNMENT = 64  # PyTorch's own; a tensor that is mapped into memory starts at a multiple
_LARGE = 2**31 - 2**20  # bytes from which a member is written as one of a large file
_MARK, _TUPLE, _REDUCE, _DICT, _SETITEMS = b"(", b"t", b"R", b"}", b"u"


def write_torch(
    path: Path, tensors: Iterable[Writable], extra: Mapping[str, Any] | None = None
) -> None:
    """Write `{"model_state_dict": tensors, **extra}`, one tensor at a time.

    The file appears whole or not at all.

    Args:
        path: of the file; what stands there is replaced.
        tensors: their numbers are asked for one after another.
        extra: plain values (numbers, texts, lists, dicts) beside the tensors.
    """
    tensors = list(tensors)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                root = path.stem or "archive"
                archive.writestr(f"{root}/data.pkl", pickled(tensors, extra or {}))
                archive.writestr(f"{root}/byteorder", b"little")
                for number, tensor in enumerate(tensors):
                    _write(file, archive, f"{root}/data/{number}", tensor)
                archive.writestr(f"{root}/version", b"3\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def pickled(tensors: Iterable[Writable], extra: Mapping[str, Any]) -> bytes:
    """The pickle of a file whose storages are called 0, 1, … in the order of the tensors."""
    items = [_text("model_state_dict"), _symbol("collections", "OrderedDict"), b")", _REDUCE, _MARK]
    for number, tensor in enumerate(tensors):
        items += [_text(tensor.name), _tensor(number, tensor)]
    items.append(_SETITEMS)
    for key, value in extra.items():
        items += [_text(key), _plain(value)]
    return b"".join([b"\x80\x02", _DICT, _MARK, *items, _SETITEMS, b"."])


def _tensor(number, tensor):
    count = math.prod(tensor.shape)
    strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    storage = [
        *(_MARK, _text("storage"), _symbol("torch", _CLASSES[tensor.dtype])),
        *(_text(str(number)), _text("cpu"), _whole(count), _TUPLE, b"Q"),
    ]
    hooks = _symbol("collections", "OrderedDict") + b")" + _REDUCE
    rest = [_whole(0), _shape(tensor.shape), _shape(strides), b"\x89", hooks]
    build = _symbol("torch._utils", "_rebuild_tensor_v2")
    return b"".join([build, _MARK, *storage, *rest, _TUPLE, _REDUCE])


def _plain(value):
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return _whole(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        items = [part for key in value for part in (_text(key), _plain(value[key]))]
        return b"".join([_DICT, _MARK, *items, _SETITEMS])
    return b"".join([b"]", _MARK, *map(_plain, value), b"e"])


def _symbol(module, name):
    return f"c{module}\n{name}\n".encode()


def _text(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _shape(shape: Shape):
    return b"".join([_MARK, *map(_whole, shape), _TUPLE])


def _whole(number):
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _write(file, archive, name, tensor):
    large = math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize > _LARGE
    info = zipfile.ZipInfo(name)
    # The header is filled up so that the numbers start where they are best mapped. A large
    # member's header is 20 bytes longer.
    start = file.tell() + 30 + len(name.encode()) + 20 * large + 4
    filler = -start % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", filler) + b"Z" * filler
    array = tensor.numbers()
    with archive.open(info, "w", force_zip64=large) as member:
        member.write(memoryview(array.reshape(-1).view("uint8")))
