"""What people pass to `fit`, made into batches of integers.

Texts, pairs and conversations go through the model's preprocessor; integers pass as they are.
"""

import itertools
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_gemma.data.prepared_rows import DOCUMENTS_AT_ONCE, DataReport, PreparedRows, windows
from keras_gemma.data.records import KINDS, InMemory, Records, read, without_pandas
from keras_gemma.data.row_forms import FIELDS, checked_row, is_one
from keras_gemma.models.text_batches import TextBatches, TextDataset, features, texts_of
from keras_gemma.text.training_rows import next_token_batch

BESIDE_TEXT = (
    "Text brings its own labels and weights: leave y and sample_weight out. Pairs are given as "
    "{'prompts': [...], 'responses': [...]}."
)


class Batches(NamedTuple):
    """What Keras's `fit` takes, and what became of the texts in it, if it is made of texts."""

    data: Any
    report: DataReport | None = None


def is_tf_dataset(x: Any) -> bool:
    """Whether `x` is a `tf.data.Dataset`; asked without importing TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(x, tensorflow.data.Dataset)


def is_text(x: Any) -> bool:
    """Whether `x` is for the preprocessor: texts, pairs, conversations, or records of them."""
    x = without_pandas(x, rows=1)
    if isinstance(x, (str, bytes, Path, Records)):
        return True
    if isinstance(x, Mapping):
        return bool(FIELDS & set(x)) or {"role", "content"} <= set(x)
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "USO"
    if isinstance(x, Sequence) and len(x):
        return is_text(x[0])
    return getattr(getattr(x, "dtype", None), "name", "") == "string"  # a TensorFlow tensor


def to_batches(
    x: Any,
    preprocessor: Any,
    batch_size: int | None = None,
    shuffle: bool = False,
    steps: int | None = None,
    filled: bool = True,
) -> Batches:
    """`x` as something Keras's `fit` takes: batches of `(inputs, labels, weights)`.

    Iterators of texts are read to their end before the first step, so that what they hold is known
    and another epoch can follow; unless `steps` says how many batches an epoch takes of them.
    `filled` is whether the last batch of texts has as many rows as the others, some of padding.
    """
    if batch_size is not None and not batch_size >= 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size!r}.")
    if is_tf_dataset(x):
        if not _spec_is_text(x.element_spec):
            return Batches(x)
        if keras.tree.flatten(features(x.element_spec))[0].shape.rank == 0:
            raise ValueError(
                "This tf.data.Dataset gives texts one by one; give it with .batch(8), say."
            )
        return Batches(x.map(_needed(preprocessor)))
    if isinstance(x, keras.utils.PyDataset):
        if not is_text(features(x[0])):
            return Batches(x)
        report = _new_report(preprocessor)
        return Batches(TextDataset(x, _batch_by_batch(preprocessor, report)), report)
    if is_text(x):
        records = as_records(x)
        rows = PreparedRows(records, _needed(preprocessor), records.skipped)
        return _prepared(rows, batch_size or 32, shuffle, steps, filled)
    if x is None or (isinstance(x, Sequence) and not len(x)):
        raise ValueError(f"There is nothing to train on: {x!r} came.")
    if not _is_stream(x):
        return Batches(x)
    first, items = _peek(x)
    if not is_text(features(first)):
        return Batches((item for item in items) if isinstance(x, Iterator) else x)
    batch_size = batch_size or (None if is_one(first) else len(_rows_in(first))) or 32
    if steps is None:
        rows = PreparedRows(_rows(items), _needed(preprocessor))
        return _prepared(rows, batch_size, shuffle, None, filled)
    report = _new_report(preprocessor)
    return Batches(_endless(x, items, preprocessor, batch_size, filled, report), report)


def as_records(x: Any) -> Records:
    """Texts of any kind but streams as records, checked; a string is a text, a `Path` a file."""
    if isinstance(x, str) and Path(x).suffix.lower() in KINDS:
        raise ValueError(
            f"The text {x!r} came, which looks like the name of a file. Give pathlib.Path({x!r}) to train on "
            f"what is in it, or [{x!r}] to train on the name."
        )
    return read([x] if isinstance(x, (str, bytes)) else x)


def split(texts: Any, share: float) -> tuple[Records, Records]:
    """The first texts, and the last `share` of them, to train on and to validate with."""
    texts = as_records(texts)
    first = split_at(len(texts), share)
    return texts.part(0, first), texts.part(first, len(texts))


def split_at(count: int, share: float) -> int:
    """How many of so many rows are to train on if a share is to validate with; Keras's rounding."""
    first = math.floor(count * (1 - share)) if 0 < share < 1 else 0
    if not 0 < first < count:
        raise ValueError(
            f"validation_split={share} of {count} rows leaves none to train on, or none to validate with. It is a "
            "share between 0 and 1; or give validation_data."
        )
    return first


def warn_of_losses(report: DataReport | None, at_end: bool = False) -> None:
    """Warn, in a sentence for each kind, of what of the data does not count.

    Once of a report; and at the end again, if data that came bit by bit has lost more by then.
    """
    if report is None or not (losses := report.losses()):
        return
    if not report.told or (at_end and report.told != losses):
        report.told = losses
        warnings.warn(
            " ".join(losses) + " `keras_gemma.data.show` shows which; the preprocessor's "
            "sequence_length and too_long say what becomes of long ones.",
            stacklevel=4,
        )


# --- streams: what gives texts one by one, or batch by batch ---


def _is_stream(x):
    """Iterators and data loaders; no arrays, tensors and tables, which can be iterated, too."""
    is_table = hasattr(x, "shape") and not hasattr(
        x, "column_names"
    )  # one of `datasets` gives rows
    return isinstance(x, Iterable) and not isinstance(x, (Mapping, Sequence)) and not is_table


def _peek(items):
    iterator = iter(items)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"There is nothing to train on: the {type(items).__name__} is empty.")
    return first, itertools.chain([first], iterator)


def _rows_in(item):
    """The rows of an item."""
    item = texts_of(item)
    return [item] if is_one(item) else [found.value for found in InMemory(item).scan()]


def _rows(items):
    """The rows of a stream, checked, one by one."""
    form = None
    for number, row in enumerate(row for item in items for row in _rows_in(item)):
        try:
            found, row = checked_row(row)
            if found != (form := form or found):
                raise ValueError(f"a {found}, where those before are of the form {form!r}")
        except (TypeError, ValueError) as error:
            raise ValueError(f"Row {number} of the stream: {error}.") from None
        yield row


def _endless(x, items, preprocessor, batch_size, filled, report):
    """Batches of a stream as they come; begun anew where it ends, if it can be.

    Only what is packed is drawn ahead: many texts are needed to fill rows.
    """
    at_once = DOCUMENTS_AT_ONCE if preprocessor.pack else batch_size
    waiting = None
    while True:
        for rows in windows(_rows(items), preprocessor, report, at_once):
            warn_of_losses(report)
            parts = [np.concatenate(pair) for pair in zip(waiting, rows)] if waiting else rows
            whole = len(parts[0]) // batch_size * batch_size
            for at in range(0, whole, batch_size):
                yield next_token_batch(*(part[at : at + batch_size] for part in parts))
            waiting = [part[whole:] for part in parts]
        if isinstance(x, Iterator):
            break
        items = x
    if waiting and len(waiting[0]):
        missing = [(0, batch_size - len(waiting[0]) if filled else 0), (0, 0)]
        yield next_token_batch(*(np.pad(part, missing) for part in waiting))


def _prepared(rows, batch_size, shuffle, steps, filled):
    rows.report.check()
    if steps is None:  # else the first rows follow after the last ones
        batch_size = min(batch_size, len(rows))
    return Batches(TextBatches(rows, batch_size, shuffle, filled=filled), rows.report)


def _new_report(preprocessor):
    preprocessor = _needed(preprocessor)
    return DataReport(row_length=preprocessor.sequence_length, too_long=preprocessor.policy)


def _batch_by_batch(preprocessor, report):
    """A function from a batch of rows to one of integers, counted in `report` the first time."""

    def prepare(batch, is_first):
        rows, _, tally = preprocessor.training_rows(list(_rows([batch])))
        if is_first:
            report.add(tally)
            report.count(rows)
            warn_of_losses(report)
        return next_token_batch(*rows)

    return prepare


def _needed(preprocessor):
    if preprocessor is None:
        raise ValueError(
            "Text needs a preprocessor, and this model has none (preprocessor=None). Attach one, "
            "or give integers: x={'token_ids', 'padding_mask'}, y and sample_weight."
        )
    return preprocessor


def _spec_is_text(spec):
    spec = features(spec)
    if isinstance(spec, Mapping):
        return all(_spec_is_text(part) for part in spec.values())
    return getattr(getattr(spec, "dtype", None), "name", "") == "string"
