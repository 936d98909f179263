"""Rows of files of lines: JSON and CSV. A pass over the file finds where each row begins."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from keras_gemma.data.row_forms import TO_LINES

# A row is read whole. What is longer than this is no row but a file without ends of lines.
LONGEST_ROW = 64 * 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Found(NamedTuple):
    """One row: its line (from 1), where it begins, and what it holds or what is wrong with it."""

    line: int
    place: int
    value: Any


class JsonLines:
    """A file with one JSON value on a line; empty lines are passed over."""

    unit = "line"

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            first = file.readline(LONGEST_ROW).removeprefix(BYTE_ORDER_MARK).strip()
        if first.startswith(b"[") and not first.endswith(b"]"):
            raise ValueError(
                f"{path} begins with an array that does not end on its line. JSON Lines was awaited, "
                f"one row on each line; of one array of rows it is made by `{TO_LINES}`."
            )

    def scan(self) -> Iterator[Found]:
        """Every row, errors among them, in one pass that holds one row at a time."""
        with self.path.open("rb") as file:
            lines = Lines(file)
            while True:
                place = lines.place
                try:
                    text = next(lines)
                    if text.strip():
                        yield Found(lines.number, place, parse_json(text))
                except StopIteration:
                    return
                except ValueError as error:
                    yield Found(lines.number, place, error)

    def read(self, places: Iterable[int]) -> Iterator[Any]:
        """The rows that begin at these places."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(place)
                yield parse_json(next(Lines(file)))


class CommaSeparated:
    """A CSV file (RFC 4180) whose first row names the fields; a quoted field may hold ends of lines."""

    unit = "line"

    def __init__(self, path: Path):
        self.path = path
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_ROW))
        with path.open("rb") as file:
            try:
                self.names = next(csv.reader(Lines(file), strict=True), [])
            except (csv.Error, ValueError) as error:
                raise ValueError(f"{path}:1: {_told(error)}") from None
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"{path}:1: the header names a field twice: {self.names}.")

    def scan(self) -> Iterator[Found]:
        """Every row, errors among them, in one pass that holds one row at a time."""
        with self.path.open("rb") as file:
            lines = MendedLines(file)
            rows = csv.reader(lines, strict=True)
            next(rows, None)
            while True:
                place, line, lines.wrong = lines.place, lines.number + 1, None
                try:
                    row = next(rows)
                    if row or lines.wrong:
                        yield lines.wrong or Found(line, place, self._record(row))
                except StopIteration:
                    return
                except (csv.Error, ValueError) as error:
                    yield lines.wrong or Found(line, place, ValueError(_told(error)))

    def read(self, places: Iterable[int]) -> Iterator[Any]:
        """The rows that begin at these places."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(place)
                yield self._record(next(csv.reader(Lines(file), strict=True)))

    def _record(self, row):
        if len(row) != len(self.names):
            raise ValueError(f"{len(row)} fields, where the header names {len(self.names)}")
        return dict(zip(self.names, row))


class Lines:
    """The lines of a file as text, each no longer than a row may be; `place` is where the next begins.

    An iterator and no generator: after an error it goes on with the next line. `mended` is what may
    stand for the line with the error: it opens and closes quotations as that does.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.place, self.number, self.mended = file, file.tell(), 0, ""

    def __iter__(self):
        return self

    def __next__(self) -> str:
        line = self.file.readline(LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        first = self.place == 0
        self.number += 1
        self.place += len(line)
        if len(line) > LONGEST_ROW:
            quotes = line.count(b'"') + self._skip_to_the_end_of(line)
            self.mended = '"' * (quotes % 2) + "\n"
            raise ValueError(f"longer than {LONGEST_ROW // 2**20} MB, which no row may be")
        if first and line.startswith(BYTE_ORDER_MARK):
            line = line[len(BYTE_ORDER_MARK) :]
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.mended = line.decode("utf-8", "replace")
            raise ValueError(
                f"not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}"
            ) from None

    def _skip_to_the_end_of(self, line):
        """How many quotation marks are passed over."""
        quotes = 0
        while line and not line.endswith(b"\n"):
            line = self.file.readline(2**20)
            self.place += len(line)
            quotes += line.count(b'"')
        return quotes


class MendedLines(Lines):
    """Lines for a reader of records, to which an error would be the end of the record it reads.

    A line that is wrong comes mended. `wrong` says what is the matter with the first of them since
    it was last set to `None`.
    """

    wrong: Found | None = None

    def __next__(self) -> str:
        place = self.place
        try:
            return super().__next__()
        except ValueError as error:
            self.wrong = self.wrong or Found(self.number, place, error)
            return self.mended


def _told(error):
    """What is wrong with a record; Python's own words for this would advise another way to open it."""
    if "new-line character" in str(error):
        return (
            "a carriage return (CR) without a line feed stands outside of quotes. End lines with "
            "LF or CRLF, and put fields that hold ends of lines in quotes"
        )
    return str(error)


def parse_json(text: str) -> Any:
    """A JSON value, strictly: no key twice, no NaN, no lone surrogate, no nesting without end.

    Raises:
        ValueError: saying what is wrong, and at which column.
    """
    try:
        value = _DECODER.decode(text.rstrip())
        if "\\ud" in text or "\\uD" in text:  # the only way for half a character to come in
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested deeper than a row of training data can mean") from None
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate)") from None
    return value


def _once_each(pairs):
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.60} stands twice in one object")
    return record


def _no_constant(name):
    raise ValueError(f"not JSON: {name} is no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_once_each, parse_constant=_no_constant)
