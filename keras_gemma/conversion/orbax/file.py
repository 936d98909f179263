"""Arrays in the folders that Orbax writes, one at a time, through TensorStore.

Each is a zarr array, in the files of a small database (`manifest.ocdbt`), or in older ones in a
folder of its own. What the arrays claim is compared with what is stored before one is read.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.tensors import Stored
from keras_gemma.presets.errors import BadPresetError, PresetError

# zarr 2 writes "<f4", zarr 3 "float32".
_DTYPES = {"<f4": "float32", "<f2": "float16", "bfloat16": "bfloat16"}
_DTYPES |= {name: name for name in ("float32", "float16")}
_METADATA = {".zarray": "zarr", "zarr.json": "zarr3"}
_MOST_KEYS = 200_000
_MOST_FILES = 200_000
_LARGEST_METADATA = 2**16
# An array may claim this, and more only if the folder has a thousandth of it stored.
_FREE, _DEFLATED = 2**20, 1100


class _Array(NamedTuple):
    stored: Stored
    driver: str


class OrbaxTensors:
    """The arrays of a folder by their name there; a dot stands before each last part."""

    def __init__(self, path: Path):
        self.path = path.resolve()
        self._tensorstore: Any = _import()
        size = _size(self.path)
        self._found: dict[str, _Array] = {}
        with _reading(self.path):
            self._list(size)
        if not self._found:
            raise BadPresetError(f"{path} holds no arrays of Orbax.")

    def headers(self) -> dict[str, Stored]:
        """Every array there is."""
        return {name: array.stored for name, array in self._found.items()}

    def read(self, name: str) -> np.ndarray:
        """The numbers of one array."""
        stored, driver = self._found[name]
        where = self._kvstore(f"{name}/")
        with _reading(self.path):
            # TensorStore reads the array's description again, and must see the same one.
            array = self._tensorstore.open({"driver": driver, "kvstore": where}, open=True).result()
            if tuple(array.shape) != stored.shape or array.dtype.name != stored.dtype:
                raise ValueError(f"{name} changed while it was read")
            numbers = array.read().result()
        return numbers.astype(DTYPES.get(stored.dtype, np.dtype(stored.dtype)), copy=False)

    def _kvstore(self, path=""):
        folder = f"{self.path.as_posix()}/"
        if (self.path / "manifest.ocdbt").is_file():
            return {"driver": "ocdbt", "base": {"driver": "file", "path": folder}, "path": path}
        return {"driver": "file", "path": f"{folder}{path}"}

    def _list(self, size):
        store = self._tensorstore.KvStore.open(self._kvstore()).result()
        keys = [key.decode() for key in store.list().result()]
        if len(keys) > _MOST_KEYS:
            raise BadPresetError(f"{self.path} holds {len(keys)} parts of arrays: too many.")
        parts: dict[str, int] = {}
        for key in keys:  # an array's numbers are in NAME/0.1 of zarr 2, NAME/c/0/1 of zarr 3
            folder, _, last = key.partition("/c/") if "/c/" in key else key.rpartition("/")
            if last not in _METADATA:
                parts[folder] = parts.get(folder, 0) + 1
        for key in keys:
            name, _, last = key.rpartition("/")
            if last in _METADATA and name:
                self._found[name] = self._array(store, key, parts.get(name, 0), size)

    def _array(self, store, key, parts, size):
        name, _, last = key.rpartition("/")
        value = store.read(key).result().value
        if len(value) > _LARGEST_METADATA:
            raise BadPresetError(f"{self.path}: the description of {name} is too large.")
        said = json.loads(value)
        shape = tuple(said["shape"])
        dtype = str(said.get("dtype", said.get("data_type")))
        chunks = said.get("chunks")
        if last == "zarr.json":
            chunks = said["chunk_grid"]["configuration"]["chunk_shape"]
        if not all(type(n) is int and 0 < n < 2**40 for n in (*shape, *chunks)) or len(shape) > 8:
            raise BadPresetError(f"{self.path}: {name} has no shape that can be.")
        awaited = math.prod(-(-n // m) for n, m in zip(shape, chunks, strict=True))
        if parts != awaited:
            raise BadPresetError(
                f"{self.path}: {name} has {parts} parts stored, {awaited} awaited: it is cut."
            )
        width = DTYPES[_DTYPES[dtype]].itemsize if dtype in _DTYPES else 8
        claimed = max(math.prod(shape), math.prod(chunks) * parts) * width
        if claimed > _FREE + _DEFLATED * size:
            raise BadPresetError(f"{self.path}: {name} claims {claimed} bytes of {size} stored.")
        return _Array(Stored(shape, _DTYPES.get(dtype, dtype)), _METADATA[last])


def _import():
    try:
        import tensorstore
    except ImportError:
        raise PresetError(
            "Orbax folders are read through TensorStore, which is not installed: "
            'pip install "keras-gemma[orbax]"'
        ) from None
    return tensorstore


def _size(folder: Path) -> int:
    """Bytes of all the files in a folder; links that lead out of it are refused."""
    total = count = 0
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            count += 1
            path = Path(root) / name
            if path.is_symlink() and not path.resolve().is_relative_to(folder):
                raise BadPresetError(f"{path} is a link that leads out of the checkpoint.")
            if count > _MOST_FILES:
                raise BadPresetError(f"{folder} holds more than {_MOST_FILES} files.")
        total += sum((Path(root) / name).stat().st_size for name in files)
    return total


class _reading:
    """While TensorStore is asked: what it raises names the folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if error is None or isinstance(error, PresetError) or not isinstance(error, Exception):
            return
        text = " ".join(str(error).split())[:200]
        raise BadPresetError(f"{self.folder} is truncated or damaged ({text}).") from None
