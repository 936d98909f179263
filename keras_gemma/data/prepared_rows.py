"""Texts as rows of integers, prepared once and kept, of which any can be had: what `fit` reads.

B rows, T tokens in a row; a row is kept with T + 1, the last of which is only a label.
"""

import dataclasses
import itertools
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_gemma.text.packing import Packed
from keras_gemma.text.training_rows import Tally, documents_of, next_token_batch

DOCUMENTS_AT_ONCE = 1024
ROWS_AT_ONCE = 256  # packed together: the last row of a window is half empty, 0.2 % of it
MOST_IN_MEMORY = 64 * 2**20  # bytes; what is more lies in a temporary file
_TOKEN = np.dtype([("id", "<u4"), ("segment", "<u4"), ("weight", "<f4")])


@dataclasses.dataclass
class DataReport(Tally):
    """What `fit` is given, in figures; `str()` of it is a sentence or two."""

    too_long: str = ""
    skipped: int = 0  # rows of files left out by `skip_bad`
    rows: int = 0
    row_length: int = 0  # T
    tokens: int = 0
    labels: int = 0  # tokens that count for the loss
    told: list[str] = dataclasses.field(default_factory=list)  # `losses` that were warned of

    @property
    def fill(self) -> float:
        """The share of the places that hold a token."""
        return self.tokens / max(self.rows * self.row_length, 1)

    def __str__(self):
        text = (
            f"{count_of(self.documents, 'document')} in {count_of(self.rows, 'row')} of "
            f"{self.row_length:,} tokens, "
            f"{self.fill:.1%} filled; the loss counts {self.labels:,} of {self.tokens:,} tokens."
        )
        return " ".join([text, *self.losses()])

    def losses(self) -> list[str]:
        """What of the data is left out or does not count, a sentence each; empty if all is there."""
        share = f" ({self.lost_tokens / max(self.all_tokens, 1):.1%} of all tokens are lost)."
        found = (
            (self.cut, f"were longer than a row and were cut off{share}"),
            (self.dropped, f"were longer than a row and were dropped{share}"),
            (self.unlabelled, "have no token that the loss counts."),
            (self.skipped, "were wrong and were skipped."),
        )
        total = self.documents + self.skipped
        return [f"{count:,} of {total:,} documents {what}" for count, what in found if count]

    def check(self) -> None:
        """Refuse data with nothing to learn from.

        Raises:
            ValueError: saying why.
        """
        if self.labels:
            return
        if self.dropped:
            why = f"{self.dropped:,} are longer than a row and were dropped"
        elif self.cut:
            why = f"{self.cut:,} are longer than a row and lost what the model says"
        else:
            why = "nothing in them is said by the model with a weight over 0"
        raise ValueError(
            f"None of {self.documents:,} documents has a token to learn from: {why}. The loss would "
            f"be 0/0. (sequence_length={self.row_length}, too_long={self.too_long!r})"
            + "".join(f"\n  {example}" for example in self.examples)
        )

    def count(self, rows: Packed) -> Packed:
        """Count rows, and pass them on."""
        x, _, weights = next_token_batch(*rows)
        self.rows += len(rows.token_ids)
        self.tokens += int((x["padding_mask"] > 0).sum())
        self.labels += int((weights > 0).sum())
        return rows


class PreparedRows:
    """Rows of all documents, cut, split and packed as the preprocessor says.

    Documents are read and packed in windows, and rows lie in a temporary file where they are many:
    memory stays the same however many there are. The rows are the same in each epoch, and whoever
    reads them shuffles rows: to pack anew for each epoch would make epochs of unlike length, under
    which no schedule fits, and would encode all texts again.

    Args:
        texts: rows as the preprocessor takes them, all of one form; read once, from first to last.
        preprocessor: a `GemmaCausalLMPreprocessor`.
        skipped: how many were left out before, for the report.

    Attributes:
        report: what became of the data, a `DataReport`.
    """

    def __init__(self, texts: Iterable[Any], preprocessor: Any, skipped: int = 0):
        length = preprocessor.sequence_length
        self.pad_id = preprocessor.tokenizer.pad_token_id
        self.report = DataReport(skipped=skipped, row_length=length, too_long=preprocessor.policy)
        self._file = tempfile.SpooledTemporaryFile(MOST_IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        ends = array("Q", [0])
        for rows in windows(texts, preprocessor, self.report):
            self._keep(rows, ends)
        self._ends = np.frombuffer(ends, np.uint64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, rows: slice | Sequence[int]) -> tuple[dict, np.ndarray, np.ndarray]:
        """`({"token_ids", "padding_mask"}, labels, weights)` of these rows, each of shape BT."""
        return next_token_batch(*self.packed(rows))

    def packed(self, rows: slice | Sequence[int]) -> Packed:
        """These rows as they lie there, each of T + 1 tokens."""
        if isinstance(rows, slice):
            rows = range(*rows.indices(len(self)))
        kept = np.zeros((len(rows), self.report.row_length + 1), _TOKEN)
        kept["id"] = self.pad_id
        for place, row in enumerate(rows):
            start, end = self._ends[[row, row + 1]].tolist()
            with self._lock:
                self._file.seek(start)
                data = self._file.read(end - start)
            tokens = np.frombuffer(data, _TOKEN)
            kept[place, : len(tokens)] = tokens
        ids, segments = (kept[name].astype(np.int32) for name in ("id", "segment"))
        return Packed(ids, segments, kept["weight"].copy())

    def _keep(self, rows, ends):
        kept = np.empty(rows.token_ids.shape, _TOKEN)
        kept["id"], kept["segment"], kept["weight"] = rows
        lengths = (rows.segments > 0).sum(1)  # padding stands at the end only
        try:
            self._file.write(kept[rows.segments > 0].tobytes())
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: no place for {ends[-1] / 1e9:.1f} GB of prepared rows and more "
                f"in {tempfile.gettempdir()}. Make room, or name another folder in TMPDIR",
            ) from None
        ends.extend((np.cumsum(lengths * _TOKEN.itemsize) + ends[-1]).tolist())


def count_of(count: int, what: str) -> str:
    """A count with its noun: `count_of(1200, "row")` is `"1,200 rows"`."""
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def windows(
    texts: Iterable[Any], preprocessor: Any, report: DataReport, at_once: int | None = None
) -> Iterator[Packed]:
    """Rows of texts, in the order of the texts; counted in `report`. So many texts at a time are drawn."""
    texts, row_length = iter(texts), report.row_length + 1
    documents, weights, waiting = [], [], 0
    while window := list(itertools.islice(texts, at_once or DOCUMENTS_AT_ONCE)):
        ids, counts, _, tally = documents_of(preprocessor, window, row_length, report.documents)
        report.add(tally)
        # As arrays: a list of Python's numbers takes nine times the memory.
        documents += [np.array(document, np.int32) for document in ids]
        weights += [np.array(row, np.float32) for row in counts]
        waiting += sum(map(len, ids))
        if waiting >= ROWS_AT_ONCE * row_length or not preprocessor.pack:
            yield report.count(preprocessor.rows_of(documents, weights, row_length))
            documents, weights, waiting = [], [], 0
    if documents:
        yield report.count(preprocessor.rows_of(documents, weights, row_length))
