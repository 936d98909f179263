"""Writes `.safetensors` files as Transformers names them: one, or several and their index."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.huggingface.safetensors_file import DTYPES as BY_NAME
from keras_gemma.conversion.keras_hub.h5_writer import shards
from keras_gemma.conversion.tensors import Writable

# Bytes in one file: what hubs take without ado, and a cut download loses.
LARGEST_FILE = 5 * 10**9
_NAMES = {dtype.name: name for name, dtype in BY_NAME.items()}


def write_safetensors(
    folder: Path, tensors: Iterable[Writable], max_shard_bytes: int = LARGEST_FILE
) -> None:
    """Write `model.safetensors`, or `model-00001-of-00003.safetensors`, … and their index.

    One tensor is held at a time. One that is larger than `max_shard_bytes` gets a file of its own.
    """
    files = shards(list(tensors), max_shard_bytes)
    if len(files) == 1:
        return write_file(folder / "model.safetensors", files[0])
    index = {}
    for number, part in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        write_file(folder / name, part)
        index |= dict.fromkeys((tensor.name for tensor in part), name)
    total = sum(_bytes(tensor) for part in files for tensor in part)
    table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
    text = json.dumps(table, indent=2)
    (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")


def write_file(path: Path, tensors: Iterable[Writable]) -> None:
    """Write one file."""
    tensors, start = list(tensors), 0
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # Transformers looks for it
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, start := start + _bytes(tensor)],
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # so that numbers start at a multiple of eight
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors:
            array = tensor.numbers()
            if array.shape != tensor.shape or array.dtype != DTYPES[tensor.dtype]:
                raise ValueError(
                    f"{tensor.name} is {array.dtype} {array.shape}, where {tensor.dtype} "
                    f"{tensor.shape} was announced."
                )
            file.write(array.reshape(-1).view("uint8"))


def _bytes(tensor):
    return math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize
