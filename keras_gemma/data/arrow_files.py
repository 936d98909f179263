"""Rows of Parquet files and of folders that Hugging Face's `datasets` saved; read with pyarrow.

Both come down to record batches in files that are mapped into memory, so that any row can be had
without the others. A Parquet file is written out that way once, into a temporary file.
"""

import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from keras_gemma.data.row_files import Found
from keras_gemma.data.row_forms import FIELDS

ROWS_AT_ONCE = 1024


class ArrowRows:
    """Rows of a table of pyarrow that lies in files; other fields than `FIELDS` are not read."""

    unit = "row"

    def __init__(self, path: Path, table: Any):
        self.path, self.table = path, table

    def scan(self) -> Iterator[Found]:
        """Every row; numbered from 1."""
        number = 0
        for batch in self.table.to_batches(max_chunksize=ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield Found(number + 1, number, _without_nulls(row))
                number += 1

    def read(self, places: Iterable[int]) -> Iterator[Any]:
        """The rows of these numbers, counted from 0."""
        for place in places:
            yield _without_nulls(self.table.slice(place, 1).to_pylist()[0])


def parquet(path: Path) -> ArrowRows:
    """The rows of a Parquet file.

    Raises:
        ImportError: pyarrow is not installed; the extra that brings it is named.
        ValueError: it is no Parquet file.
    """
    pa = _pyarrow()
    import pyarrow.parquet

    handle, name = tempfile.mkstemp(suffix=".arrow")
    os.close(handle)
    try:
        with pyarrow.parquet.ParquetFile(path) as source:
            schema = source.schema_arrow
            names = [name for name in schema.names if name in FIELDS]
            schema = pa.schema([schema.field(name) for name in names])
            with pa.OSFile(name, "wb") as out, pa.ipc.new_file(out, schema) as writer:
                for batch in source.iter_batches(ROWS_AT_ONCE, columns=names):
                    writer.write_batch(batch)
        rows = ArrowRows(path, pa.ipc.open_file(pa.memory_map(name)).read_all())
    except pa.ArrowInvalid as error:
        Path(name).unlink()
        raise ValueError(f"{path} is no Parquet file that can be read: {error}") from None
    weakref.finalize(rows, Path(name).unlink, missing_ok=True)
    return rows


def is_dataset_folder(path: Path) -> bool:
    """Whether `datasets` saved this folder (`save_to_disk`)."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def dataset_folder(path: Path) -> ArrowRows:
    """The rows of a folder of `datasets.Dataset.save_to_disk`; `datasets` itself is not needed.

    Raises:
        ImportError: pyarrow is not installed; the extra that brings it is named.
        ValueError: the folder holds several splits, or files that are not as it says.
    """
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise ValueError(f"{path} holds the splits {', '.join(splits)}. Give the folder of one.")
    pa = _pyarrow()
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    tables = []
    for entry in state["_data_files"]:
        file = path / Path(entry["filename"]).name  # a name that leads elsewhere leads nowhere
        try:
            tables.append(pa.ipc.open_stream(pa.memory_map(str(file))).read_all())
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file} is no file of record batches: {error}") from None
    table = pa.concat_tables(tables)
    return ArrowRows(path, table.select([name for name in table.column_names if name in FIELDS]))


def _pyarrow():
    try:
        import pyarrow
    except ImportError:
        raise ImportError(
            'Parquet files and folders of `datasets` need pyarrow: pip install "keras-gemma[data]".'
        ) from None
    return pyarrow


def _without_nulls(row):
    """Without the fields that a row lacks; a column has a place for them all the same."""
    return {name: value for name, value in row.items() if value is not None}
