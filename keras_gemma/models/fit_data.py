"""What people pass to `fit`, made into batches of integers.

Texts, pairs and conversations go through the model's preprocessor; integers pass as they are.
"""

import itertools
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_gemma.data.prepared_rows import DataReport, PreparedRows, windows
from keras_gemma.data.records import InMemory, Records, read
from keras_gemma.data.row_forms import FIELDS, checked_row, is_one
from keras_gemma.models.text_batches import TextBatches, TextDataset, features
from keras_gemma.text.training_rows import next_token_batch


def is_tf_dataset(x: Any) -> bool:
    """Whether `x` is a `tf.data.Dataset`; asked without importing TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(x, tensorflow.data.Dataset)


def is_text(x: Any) -> bool:
    """Whether `x` is for the preprocessor: texts, pairs, conversations, or records of them."""
    if isinstance(x, (str, bytes, Path, Records)):
        return True
    if isinstance(x, Mapping):
        return bool(FIELDS & set(x))
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "USO"
    if isinstance(x, Sequence) and len(x):
        return is_text(x[0])
    return getattr(getattr(x, "dtype", None), "name", "") == "string"  # a TensorFlow tensor


def to_batches(x, preprocessor, batch_size=None, shuffle=False, steps=None):
    """`x` as something Keras's `fit` takes: batches of `(inputs, labels, weights)`.

    Iterators of texts are read to their end before the first step, so that what they hold is known
    and another epoch can follow; unless `steps` says how many batches an epoch takes of them.
    """
    if is_tf_dataset(x):
        return x.map(_needed(preprocessor)) if _spec_is_text(x.element_spec) else x
    if isinstance(x, keras.utils.PyDataset):
        if not is_text(features(x[0])):
            return x
        return TextDataset(x, _batch_by_batch(_needed(preprocessor)))
    if is_text(x):
        records = as_records(x)
        return _prepared(records, preprocessor, batch_size or 32, shuffle, records.skipped)
    if not _is_stream(x):
        return x
    first, items = _peek(x)
    if not is_text(features(first)):
        return (item for item in items) if isinstance(x, Iterator) else x
    batch_size = batch_size or (None if is_one(first) else len(_rows_in(first))) or 32
    if steps is None:
        return _prepared(_rows(items), preprocessor, batch_size, shuffle)
    return _endless(x, items, _needed(preprocessor), batch_size)


def as_records(x: Any) -> Records:
    """Texts of any kind but streams as records, checked; a string is a text, a `Path` a file."""
    return read([x] if isinstance(x, (str, bytes)) else x)


def split(texts, share):
    """The first texts, and the last `share` of them, to train on and to validate with."""
    texts = as_records(texts)
    first = len(texts) - int(len(texts) * share)
    return texts.part(0, first), texts.part(first, len(texts))


def warn_of_losses(report: DataReport | None) -> None:
    """Warn, in a sentence for each kind, of what of the data does not count; once of a report."""
    if report is not None and not report.is_told and (losses := report.losses()):
        report.is_told = True
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
    item = features(item)
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


def _endless(x, items, preprocessor, batch_size):
    """Batches of a stream as they come; begun anew where it ends, if it can be."""
    report = DataReport(row_length=preprocessor.sequence_length, too_long=preprocessor.policy)
    waiting = None
    while True:
        for rows in windows(_rows(items), preprocessor, report):
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
        missing = [(0, batch_size - len(waiting[0])), (0, 0)]
        yield next_token_batch(*(np.pad(part, missing) for part in waiting))


def _prepared(texts, preprocessor, batch_size, shuffle, skipped=0):
    rows = PreparedRows(texts, _needed(preprocessor), skipped)
    rows.report.check()
    return TextBatches(rows, batch_size, shuffle)


def _batch_by_batch(preprocessor):
    """A function from a batch of rows to one of integers; it warns once of what it cuts."""
    report = DataReport(row_length=preprocessor.sequence_length, too_long=preprocessor.policy)

    def prepare(batch):
        rows, _, tally = preprocessor.training_rows(list(_rows([batch])))
        report.add(tally)
        warn_of_losses(report)
        return next_token_batch(*report.count(rows))

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
