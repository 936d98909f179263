"""Writes `.weights.h5` as Keras reads them: one file, or shards and the JSON that names them."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.tensors import Writable

# KerasHub's bound for one file, in bytes.
LARGEST_FILE = 10 * 1024**3


def write_h5(folder: Path, tensors: Iterable[Writable], largest_file: int = LARGEST_FILE) -> None:
    """Write `model.weights.h5`, or `model_00000.weights.h5`, … and `model.weights.json`.

    One tensor is held at a time. One that is larger than `largest_file` gets a file of its own.
    """
    tensors = list(tensors)
    files = shards(tensors, largest_file)
    if len(files) == 1:
        return write_file(folder / "model.weights.h5", files[0])
    index, total = {}, 0
    for number, part in enumerate(files):
        name = f"model_{number:05}.weights.h5"
        write_file(folder / name, part)
        for tensor in part:
            index["/" + tensor.name.rpartition("/")[0]] = name
            total += _bytes(tensor)
    table = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.weights.json").write_text(json.dumps(table, indent=4), encoding="utf-8")


def shards(tensors: Iterable[Writable], largest: int) -> list[list[Writable]]:
    """Tensors in their order, cut where a file would grow beyond `largest` bytes."""
    files, filled = [[]], 0
    for tensor in tensors:
        if files[-1] and filled + _bytes(tensor) > largest:
            files.append([])
            filled = 0
        files[-1].append(tensor)
        filled += _bytes(tensor)
    return files


def _bytes(tensor):
    return math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize


def write_file(path: Path, tensors: Iterable[Writable]) -> None:
    """Write one file, whatever its size."""
    import h5py

    with h5py.File(path, "w") as file:
        for tensor in tensors:
            array = tensor.numbers()
            stored = array.view("V2") if tensor.dtype == "bfloat16" else array
            dataset = file.create_dataset(tensor.name, data=stored)
            if tensor.dtype == "bfloat16":  # H5 has no such type: Keras writes its name beside it
                dataset.attrs["dtype"] = "bfloat16"
