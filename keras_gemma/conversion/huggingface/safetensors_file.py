"""Tensors in `.safetensors` files, one or several with an index; read with suspicion.

A file is eight bytes that tell the length of a header, the header in JSON, and the numbers of one
tensor after another. All of it is compared with the file's size before a number is read.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from keras_gemma.conversion.tensors import Stored, read_at
from keras_gemma.presets import bundle
from keras_gemma.presets.errors import BadPresetError

INDEX = ".index.json"  # what the name of an index ends with

# The format's names, and NumPy's types.
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U64": np.dtype("uint64"),
    "U32": np.dtype("uint32"),
    "U16": np.dtype("uint16"),
    "U8": np.dtype("uint8"),
}
_FORMAT_LIMIT = 100_000_000  # bytes of a header, by the format's own definition
# The largest Gemma's header has 0.2 MB. A parser makes thirty times the size of some texts.
_LARGEST_HEADER = 4 * 2**20
_MOST_AXES, _LONGEST_NAME = 8, 400
_METADATA = "__metadata__"


class SafetensorsTensors:
    """The tensors of safetensors files by name, those of several files together."""

    def __init__(self, path: Path, files: Sequence[Path] | None = None):
        self.path = path
        self._found: dict[str, tuple[Stored, Path, int]] = {}
        for file in files or [path]:
            for name, stored, start in _headers(file):
                if name in self._found:
                    raise BadPresetError(f"{file}: {name} is in {self._found[name][1].name}, too.")
                self._found[name] = stored, file, start

    def headers(self) -> dict[str, Stored]:
        """Every tensor there is."""
        return {name: stored for name, (stored, _, _) in self._found.items()}

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._found[name][1]

    def read(self, name: str) -> np.ndarray:
        """The numbers of one tensor."""
        stored, path, start = self._found[name]
        return read_at(path, start, name, stored)


def open_folder(folder: Path, stem: str = "model") -> SafetensorsTensors:
    """The tensors of a folder: in `model.safetensors`, or in the files that an index names.

    Raises:
        BadPresetError: a file is missing, truncated or damaged, or lies elsewhere.
    """
    one, index = f"{stem}.safetensors", f"{stem}.safetensors{INDEX}"
    if not bundle.has(folder, index):
        if not bundle.has(folder, one):
            raise BadPresetError(bundle.missing(folder, one))
        return SafetensorsTensors(folder / one)
    table = _weight_map(folder / index)
    names = sorted(set(table.values()))
    if bundle.has(folder, one) and one not in names:
        raise BadPresetError(
            f"{folder} has {one}, and {index} names other files. Keep one of them."
        )
    tensors = SafetensorsTensors(folder / index, [_shard(folder, index, name) for name in names])
    there = tensors.headers()
    for tensor, name in table.items():
        if tensor not in there:
            raise BadPresetError(f"{folder / name}: {tensor!r:.200} is missing; {index} names it.")
        if tensors.file_of(tensor).name != name:
            raise BadPresetError(
                f"{folder / index}: {tensor} is in {tensors.file_of(tensor).name}, not in {name}."
            )
    return tensors


def _weight_map(path: Path) -> dict[str, str]:
    with bundle.reading(path), path.open("rb") as file:
        raw = file.read(_LARGEST_HEADER + 1)
    if len(raw) > _LARGEST_HEADER:
        raise BadPresetError(f"{path} is too large for an index.")
    table = _parsed(raw, path, "it").get("weight_map")
    if not isinstance(table, dict) or not table:
        raise BadPresetError(f"{path}: 'weight_map' must be an object that names files.")
    for tensor, name in table.items():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise BadPresetError(
                f"{path}: {tensor!r:.80} is in {name!r:.80}, no .safetensors file."
            )
    return table


def _shard(folder: Path, index: str, name: str) -> Path:
    """A file that an index names; it must lie in the folder itself."""
    path = folder / name
    if Path(name).name != name or "\\" in name or "\0" in name:
        raise BadPresetError(
            f"{folder / index} names {name!r:.80}; shards lie in the folder itself."
        )
    if not bundle.has(folder, name):
        raise BadPresetError(bundle.missing(folder, name))
    home, real = folder.resolve(), path.resolve()
    # In the hub's cache, `snapshots/REVISION/file` is a link to `blobs/CHECKSUM` of the same model.
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    if real.parent not in (home, blobs):
        raise BadPresetError(f"{path} is a link that leaves the folder, and is not followed.")
    return path


def _headers(path: Path) -> Iterator[tuple[str, Stored, int]]:
    """`(name, header, place in the file)` of each tensor, all seen to fill the file exactly."""
    with bundle.reading(path), path.open("rb") as file:
        size, length = path.stat().st_size, int.from_bytes(file.read(8), "little")
        raw = file.read(length) if length <= min(size - 8, _LARGEST_HEADER) else b""
    if size < 8 or len(raw) < length and length > min(size - 8, _FORMAT_LIMIT):
        raise _truncated(path, f"{8 + length} bytes awaited for its header", size)
    if len(raw) < length:
        raise BadPresetError(f"{path}: {length} bytes of header are more than any Gemma has.")
    header = _parsed(raw, path, "its header")
    header.pop(_METADATA, None)
    found = [_tensor(path, name, record) for name, record in header.items()]
    end = 0
    for name, stored, start, stop in sorted(found, key=lambda tensor: tensor[2:]):
        if start != end:
            what = "overlaps another tensor" if start < end else "leaves a gap before it"
            raise BadPresetError(f"{path}: {name} starts at {start}, {end} awaited: it {what}.")
        end = stop
        yield name, stored, 8 + length + start
    if 8 + length + end != size:
        raise _truncated(path, f"{8 + length + end} bytes awaited", size)


def _truncated(path, awaited, found):
    return BadPresetError(
        f"{path} is truncated or damaged: {awaited}, {found} found. Get it again."
    )


def _tensor(path: Path, name: str, record: Any) -> tuple[str, Stored, int, int]:
    """One record of a header: `(name, header, first byte, byte after the last)`."""

    def bad(what):
        return BadPresetError(f"{path}: {name} {what}.")

    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise BadPresetError(f"{path}: {name!r:.80} is no name of a tensor.")
    if not isinstance(record, dict) or set(record) != {"dtype", "shape", "data_offsets"}:
        raise bad("must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = record["dtype"], record["shape"], record["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad(f"has dtype {dtype!r:.40}; those read are {', '.join(DTYPES)}")
    if not _counts(shape) or len(shape) > _MOST_AXES:
        raise bad(f"has shape {shape!s:.80}; at most {_MOST_AXES} whole numbers were awaited")
    if not _counts(offsets) or len(offsets) != 2:
        raise bad(f"has data_offsets {offsets!s:.80}; two whole numbers were awaited")
    needed, (start, stop) = math.prod(shape) * DTYPES[dtype].itemsize, offsets
    if stop - start != needed:
        raise bad(f"of shape {tuple(shape)} takes {needed} bytes, its offsets span {stop - start}")
    return name, Stored(tuple(shape), DTYPES[dtype].name), start, stop


def _counts(value):
    """Whether it is a list of whole numbers that a file could have bytes for."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**60 for n in value)


def _parsed(raw: bytes, path: Path, what: str) -> dict[str, Any]:
    """A JSON object without doubled keys."""

    def unique(pairs):
        made = {}
        for key, value in pairs:
            if key in made:
                raise BadPresetError(f"{path}: {what} has {key!r:.200} twice.")
            made[key] = value
        return made

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except BadPresetError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadPresetError(
            f"{path} is truncated or damaged: {what} is no JSON ({str(error)[:120]})."
        ) from None
    if not isinstance(value, dict):
        raise BadPresetError(f"{path}: {what} must be an object, not a {type(value).__name__}.")
    return value
