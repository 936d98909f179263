"""Tensors in PyTorch's zip files (`.ckpt`, `.pt`, `.bin`), read without PyTorch and without running anything.

NAME/data.pkl      which tensors there are, and in which storage: `torch_pickle` reads it
NAME/data/0, 1, …  the storages, each a run of numbers, not compressed
NAME/byteorder     "little"; older files do without it
"""

import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.gemma_pytorch.torch_pickle import Storage, View, unpickle
from keras_gemma.conversion.tensors import Stored, read_at
from keras_gemma.presets.errors import BadPresetError

_LARGEST_PICKLE = 4 * 2**20  # Gemma's have a few hundred bytes per tensor
_LARGEST_TABLE = 4 * 2**20  # of members, at the end of the zip file; theirs have 70 bytes each
_LOCAL_HEADER = 30  # bytes in front of each member, its name and its extra field


class _Member(NamedTuple):
    start: int  # of its bytes, in the file
    size: int


class TorchTensors:
    """The tensors of a PyTorch file by name, and what else it holds.

    Attributes:
        path: of the file.
        extra: plain values beside the tensors, by name.
    """

    def __init__(self, path: Path):
        self.path = path
        self.extra: dict[str, Any] = {}
        self._views: dict[str, View] = {}
        members = _members(path)
        self._root = _root(members, path)
        self._members = members
        if (order := self._small("byteorder", 16)) not in (None, b"little"):
            raise BadPresetError(f"{path} was written on a machine of byte order {order!r}.")
        pickle = self._small("data.pkl", _LARGEST_PICKLE)
        found = unpickle(pickle, str(path))
        if not isinstance(found, dict):
            raise BadPresetError(f"{path} holds a {type(found).__name__}, not named tensors.")
        self._take(found)

    def headers(self) -> dict[str, Stored]:
        """Every tensor there is."""
        return {name: Stored(view.shape, view.storage.dtype) for name, view in self._views.items()}

    def read(self, name: str) -> np.ndarray:
        """The numbers of one tensor."""
        view = self._views[name]
        stored = Stored(view.shape, view.storage.dtype)
        dtype = DTYPES.get(stored.dtype, np.dtype(stored.dtype))
        member = self._members[f"{self._root}/data/{view.storage.key}"]
        return read_at(self.path, member.start + view.offset * dtype.itemsize, name, stored)

    def _take(self, found):
        # DeepMind puts the tensors one level down and the rest beside them; others have no level.
        named = found.get("model_state_dict", found)
        if not isinstance(named, dict):
            raise BadPresetError(f"{self.path}: 'model_state_dict' is no table of tensors.")
        if named is not found:
            self.extra = {key: value for key, value in found.items() if value is not named}
        for name, value in named.items():
            if not isinstance(value, View):
                raise BadPresetError(f"{self.path}: {str(name)[:80]!r} is no tensor.")
            self._check(str(name), value)
            self._views[str(name)] = value

    def _check(self, name, view):
        storage: Storage = view.storage
        member = self._members.get(f"{self._root}/data/{storage.key}")
        if member is None:
            raise BadPresetError(
                f"{self.path}: {name} is in member {storage.key[:40]!r}; it is missing."
            )
        width = DTYPES.get(storage.dtype, np.dtype(storage.dtype)).itemsize
        if member.size != storage.numbers * width:
            raise BadPresetError(
                f"{self.path}: {name} has {member.size} bytes stored, "
                f"{storage.numbers * width} awaited."
            )
        if view.offset + math.prod(view.shape) > storage.numbers:
            raise BadPresetError(
                f"{self.path}: {name} of shape {view.shape} goes beyond its {storage.numbers} numbers."
            )
        step = 1
        for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
            if size != 1 and stride != step:
                raise BadPresetError(
                    f"{self.path}: {name} does not lie row after row (strides {view.strides} of "
                    f"shape {view.shape}). Save it anew with .contiguous()."
                )
            step *= size

    def _small(self, name, largest):
        member = self._members.get(f"{self._root}/{name}")
        if member is None:
            return None
        if member.size > largest:
            raise BadPresetError(f"{self.path}: {name} is too large ({member.size} bytes).")
        with self.path.open("rb") as file:
            file.seek(member.start)
            return file.read(member.size)


def is_torch_file(path: Path) -> bool:
    """Whether a file looks like one: a zip file by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def _root(members, path):
    """The folder in the zip file that holds it all; its name is the writer's choice."""
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1 or "/" in roots[0]:
        raise BadPresetError(f"{path} is a zip file, but none of PyTorch: it has no one data.pkl.")
    return roots[0]


def _members(path: Path) -> dict[str, _Member]:
    """Where each member's bytes lie, each seen to be in the file, uncompressed and by itself."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            _check_table(file, size, path)
            archive = zipfile.ZipFile(file)
            found = [(info, _start(file, info, path)) for info in archive.infolist()]
            end = min(archive.start_dir, size)
    except FileNotFoundError:
        raise BadPresetError(f"There is no file {path}.") from None
    except BadPresetError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise BadPresetError(
            f"{path} is truncated or damaged, or no file of PyTorch since 1.6 ({error})."
        ) from None
    members, last = {}, 0
    for info, start in sorted(found, key=lambda pair: pair[0].header_offset):
        name, stop = info.filename, start + info.file_size
        if name in members:
            raise BadPresetError(f"{path}: member {name[:80]!r} is there twice.")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise BadPresetError(f"{path}: member {name[:80]!r} leads out of the file.")
        if info.header_offset < last or stop > end:
            raise BadPresetError(f"{path}: member {name[:80]!r} lies over another one or the end.")
        members[name], last = _Member(start, info.file_size), stop
    return members


def _check_table(file, size, path):
    """Refuse a table of members that would fill the memory, before `zipfile` reads it."""
    file.seek(max(0, size - 2**16 - 100))
    tail = file.read()
    end = len(tail) - 22 if tail[-22:-18] == b"PK\x05\x06" else tail.rfind(b"PK\x05\x06")
    table = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if table == 0xFFFF_FFFF:  # told in the record of large files instead
        end = tail.rfind(b"PK\x06\x06")
        table = int.from_bytes(tail[end + 40 : end + 48], "little") if end >= 0 else 0
    if table > _LARGEST_TABLE:
        raise BadPresetError(f"{path}: its table of members is too large ({table} bytes).")


def _start(file, info, path):
    """Where a member's bytes start: its own header is read, which the table at the end repeats."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise BadPresetError(f"{path}: member {info.filename[:80]!r} is compressed or cut.")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04" or info.flag_bits & 0x1:
        raise BadPresetError(f"{path}: member {info.filename[:80]!r} has no header of its own.")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return info.header_offset + _LOCAL_HEADER + lengths
