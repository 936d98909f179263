"""What people train on, read from files row by row: `read`, and the `Records` it gives."""

import copy
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from keras_gemma.data import arrow_files
from keras_gemma.data.row_files import CommaSeparated, Found, JsonLines
from keras_gemma.data.row_forms import checked_row, is_one

KINDS = {
    ".jsonl": JsonLines,
    ".json": JsonLines,
    ".ndjson": JsonLines,
    ".csv": CommaSeparated,
    ".parquet": arrow_files.parquet,
}
MOST_EXAMPLES = 10
ROWS_AT_ONCE = 2**14  # looked up together


def read(data: Any, *, skip_bad: bool = False) -> "Records":
    """Rows to train on, from files of any size: for `fit`, `evaluate` and `keras_gemma.data.show`.

    All rows are checked here, in one pass; only where each begins is kept, and a row is read again
    when it is asked for.

        records = keras_gemma.data.read("talks.jsonl")
        model.fit(records, validation_data=keras_gemma.data.read("held_out.parquet"))

    Args:
        data: a file (JSONL, CSV, Parquet), a folder of such files, one that `datasets` saved, a
            list of these; or rows in memory: a list of records, columns, a `datasets.Dataset`, a table of pandas.
            A row is a text (`text`), a pair (`prompt` with `response`, and the names in
            `row_forms.PAIRS`) or a conversation (`messages`, or a list of messages by itself); all
            rows are of one form.
        skip_bad: whether to leave out rows that are wrong, and count them in `skipped`.

    Raises:
        ValueError: a row is wrong, and `path:line` says where; or none is right.
        TypeError: it is a stream, whose rows come only one after the other.
        ImportError: pyarrow is needed; the extra that brings it is named.
    """
    if isinstance(data, Records):
        return data
    return Records(_sources_of(without_pandas(data)), skip_bad)


def without_pandas(data: Any, rows: int | None = None) -> Any:
    """A table of pandas as lists by the names of its columns, a column as a list; all else as it is.

    `rows` is how many of the first ones will do.
    """
    if type(data).__module__.partition(".")[0] != "pandas":
        return data
    data = data[:rows]
    return data.to_dict("list") if hasattr(data, "columns") else list(data)


class Records(Sequence):
    """Rows as the preprocessor takes them, checked, any of which can be had at any time.

    Attributes:
        form: `"text"`, `"pair"` or `"conversation"`.
        skipped: how many rows were left out because they are wrong.
        examples: of the first few of these, where they are and what is wrong.
    """

    def __init__(self, sources: Sequence[Any], skip_bad: bool = False):
        self.sources, self.skip_bad = sources, skip_bad
        self.form, self.skipped, self.examples = "", 0, []
        places, self._firsts = array("Q"), [0]
        for source in sources:
            places.extend(self._good_places(source))
            self._firsts.append(len(places))
        self._places = np.frombuffer(places, np.uint64)
        self._stamps = [_stamp(source) for source in sources]
        if not len(places):
            why = "".join(f"\n  {example}" for example in self.examples)
            names = ", ".join(str(source.path) for source in sources)
            raise ValueError(f"There is no row to train on in {names or 'an empty folder'}.{why}")

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, rows: int) -> Any: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int]) -> list: ...
    def __getitem__(self, rows):
        if isinstance(rows, slice):
            rows = range(*rows.indices(len(self)))
        elif np.ndim(rows) == 0:
            if not -len(self) <= rows < len(self):
                raise IndexError(f"Row {rows} of {len(self)}.")
            return next(self._read([rows % len(self)]))
        return list(self._read(rows))

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self._read(range(start, min(start + ROWS_AT_ONCE, len(self))))

    def part(self, start: int, stop: int) -> "Records":
        """The rows from `start` to before `stop`, as records of their own.

        What was left out is counted with the first of them.
        """
        part = copy.copy(self)
        part.skipped = 0 if start else self.skipped
        part._places = self._places[start:stop]
        part._firsts = np.clip(np.subtract(self._firsts, start), 0, stop - start).tolist()
        return part

    def __repr__(self):
        left_out = f", {self.skipped:,} left out" if self.skipped else ""
        return f"<Records: {len(self):,} rows of the form {self.form!r}{left_out}>"

    def _good_places(self, source):
        for line, place, value in source.scan():
            try:
                self._check(value)
            except (TypeError, ValueError) as error:
                self._refuse(f"{source.path}:{line}: {error}")
            else:
                yield place

    def _check(self, value):
        if isinstance(value, Exception):
            raise value
        form, _ = checked_row(value)
        self.form = self.form or form
        if form != self.form:
            raise ValueError(f"a {form}, where the rows before are of the form {self.form!r}")

    def _refuse(self, message):
        if not self.skip_bad:
            raise ValueError(
                f"{message.rstrip('.')}. Correct the row, or leave such rows out: skip_bad=True in "
                "keras_gemma.data.read, --skip-bad in `keras-gemma train`."
            ) from None
        self.skipped += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(message)

    def _read(self, rows: Iterable[int]) -> Iterator[Any]:
        """Rows in the order asked for; neighbours of one file come from one opening of it."""
        rows = np.asarray(rows, np.int64)
        of = np.searchsorted(self._firsts, rows, side="right") - 1
        changes = np.flatnonzero(np.diff(of)) + 1
        for start, end in pairwise([0, *changes.tolist(), len(rows)]):
            if start == end:
                return
            source, stamp = self.sources[of[start]], self._stamps[of[start]]
            if _stamp(source) != stamp:
                raise ValueError(f"{source.path} was changed since it was read. Read it anew.")
            places = self._places[rows[start:end]].tolist()
            yield from (checked_row(value)[1] for value in source.read(places))


class InMemory:
    """Rows that are held already: a list of them, columns, or what gives a row for a number."""

    unit, path = "row", "data"

    def __init__(self, rows: Any):
        self.rows = rows = _without_tensors(rows)
        if isinstance(rows, Mapping):
            lengths = {name: len(column) for name, column in rows.items()}
            if len(set(lengths.values())) != 1:
                raise ValueError(f"Columns must be of one length, not {lengths}.")

    def scan(self) -> Iterator[Found]:
        """Every row; numbered from 0, as Python does."""
        some = next(iter(self.rows.values())) if isinstance(self.rows, Mapping) else self.rows
        for number, value in enumerate(self.read(range(len(some)))):
            yield Found(number, number, value)

    def read(self, places: Iterable[int]) -> Iterator[Any]:
        """The rows of these numbers."""
        if not isinstance(self.rows, Mapping):
            return (self.rows[place] for place in places)
        columns = self.rows.items()
        return ({name: column[place] for name, column in columns} for place in places)


def _sources_of(data):
    if isinstance(data, (str, Path)):
        return _files_of(Path(data))
    if isinstance(data, Sequence) and data and isinstance(data[0], Path):
        return [source for path in data for source in _files_of(Path(path))]
    if isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise TypeError(
            f"Rows any of which can be had at any time were awaited, not {type(data).__name__}, "
            "which gives them one after the other. `fit` takes that as it is; to read or show some "
            "of its rows, give a list of them: list(itertools.islice(rows, 100)), or of tf.data "
            "list(rows.unbatch().take(100).as_numpy_iterator())."
        )
    return [InMemory([data] if is_one(data) else data)]


def _files_of(path):
    if not path.exists():
        raise FileNotFoundError(f"There is no {path} to read training data from.")
    if path.is_dir() and arrow_files.is_dataset_folder(path):
        return [arrow_files.dataset_folder(path)]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in KINDS)
        return [KINDS[file.suffix.lower()](file) for file in files]
    if path.suffix.lower() not in KINDS:
        raise ValueError(
            f"{path} is of no kind that is read: {', '.join(KINDS)}, or a folder of these."
        )
    return [KINDS[path.suffix.lower()](path)]


def _without_tensors(rows):
    """TensorFlow's string tensors as NumPy's arrays; all else as it is."""
    if isinstance(rows, Mapping):
        return {name: _without_tensors(column) for name, column in rows.items()}
    return rows.numpy() if getattr(getattr(rows, "dtype", None), "name", "") == "string" else rows


def _stamp(source):
    if not isinstance(source.path, Path) or not source.path.is_file():
        return None
    stat = source.path.stat()
    return stat.st_size, stat.st_mtime_ns
