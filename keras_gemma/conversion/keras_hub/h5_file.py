"""Arrays in `.weights.h5` files, one or many, as Keras writes them; read with suspicion.

h5py follows links out of a file, and believes any size: here each array is seen to lie in the file
itself, with all its bytes, before one is read.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_gemma import arrays
from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.tensors import Stored, read_at
from keras_gemma.presets.errors import BadPresetError

_DEEPEST = 16  # groups in groups; Keras's files have five
# Of HDF5's filters those that it has built in: another one would be code from elsewhere.
_DEFLATED = 1100  # times that deflate makes numbers smaller, at most
_FILTERS = {"deflate": 1, "shuffle": 2, "fletcher32": 3}


class H5Tensors:
    """The arrays of H5 files by their path, those of several files together."""

    def __init__(self, path: Path, files: list[Path] | None = None):
        self.path = path
        self._found: dict[str, tuple[Stored, Path]] = {}
        for file in files or [path]:
            for name, stored in _headers(file):
                if name in self._found:
                    raise BadPresetError(f"{file}: {name} is in {self._found[name][1].name}, too.")
                self._found[name] = stored, file

    def headers(self) -> dict[str, Stored]:
        """Every array there is."""
        return {name: stored for name, (stored, _) in self._found.items()}

    def read(self, name: str) -> np.ndarray:
        """The numbers of one array."""
        import h5py

        stored, path = self._found[name]
        dtype = DTYPES.get(stored.dtype, np.dtype(stored.dtype))
        with _opened(h5py, path) as file:
            item = file[name]
            # Where the numbers lie in one piece and as they are, it takes a sixth of h5py's time
            # to read them; bfloat16, which H5 does not know, is two bytes of anything to it.
            is_plain = stored.dtype == "bfloat16" or item.dtype == dtype
            start = item.id.get_offset() if is_plain else None
            if start is None:
                array = arrays.empty(stored.shape, dtype)
                view = array.view("V2") if stored.dtype == "bfloat16" else array
                item.read_direct(view) if array.ndim else view.__setitem__((), item[()])
                return array
        return read_at(path, start, name, stored)


def _headers(path: Path) -> Iterator[tuple[str, Stored]]:
    import h5py  # slow to import, and not needed to list presets

    with _opened(h5py, path) as file:
        yield from _arrays(h5py, file, path, "", set())


@contextlib.contextmanager
def _opened(h5py, path):
    """An open file; what HDF5 finds wrong with it, now or while it is read, names it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BadPresetError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, RecursionError) as error:
        text = " ".join(str(error).split())[:300]
        raise BadPresetError(
            f"{path} is truncated or damaged ({text}). Get the preset again, or save it again."
        ) from None


def _arrays(h5py, group, path, prefix, seen):
    for key in group:
        name = f"{prefix}/{key}" if prefix else key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise BadPresetError(f"{path}: {name} is a link, and links are not followed.")
        item = group[key]
        # Groups that hold each other by many names have more paths than could ever be walked.
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise BadPresetError(f"{path}: {name} is there under another name, too.")
        seen.add(address)
        if not isinstance(item, h5py.Dataset):
            if name.count("/") > _DEEPEST:
                raise BadPresetError(f"{path}: groups are nested too deep at {name}.")
            yield from _arrays(h5py, item, path, name, seen)
            continue
        if item.external or item.is_virtual:
            raise BadPresetError(f"{path}: {name} has its numbers in another file.")
        yield name, _stored(item, path, name)


def _stored(item: Any, path: Path, name: str) -> Stored:
    if item.shape is None:
        raise BadPresetError(f"{path}: {name} has no shape.")
    made = item.id.get_create_plist()
    filters = {made.get_filter(number)[0] for number in range(made.get_nfilters())}
    if not filters <= set(_FILTERS.values()):
        raise BadPresetError(f"{path}: {name} is compressed in a way that Keras does not use.")
    needed = math.prod(item.shape) * item.dtype.itemsize
    stored = item.id.get_storage_size()
    if item.chunks is None:
        whole = stored == needed
    else:  # in pieces, all of one size, each of which is there
        pieces = math.prod(-(-n // m) for n, m in zip(item.shape, item.chunks, strict=True))
        needed = pieces * math.prod(item.chunks) * item.dtype.itemsize
        whole = item.id.get_num_chunks() == pieces
        deflated = _FILTERS["deflate"] in filters
        whole = whole and needed <= (_DEFLATED * stored if deflated else stored)
    if not whole:
        raise BadPresetError(f"{path}: {name} has {stored} bytes stored, {needed} awaited.")
    dtype = item.dtype.name
    if item.dtype.kind == "V":
        dtype = str(item.attrs.get("dtype", dtype))
        if dtype != "bfloat16" or item.dtype.itemsize != 2:
            raise BadPresetError(f"{path}: {name} holds {dtype}, which are no numbers.")
    elif item.dtype.kind not in "fiub":
        raise BadPresetError(f"{path}: {name} holds {dtype}, which are no numbers.")
    return Stored(tuple(item.shape), dtype)
