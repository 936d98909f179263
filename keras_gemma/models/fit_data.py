"""What people pass to `fit`, made into batches of integers.

Texts, pairs and conversations go through the model's preprocessor; integers pass as they are.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np


def is_tf_dataset(x: Any) -> bool:
    """Whether `x` is a `tf.data.Dataset`; asked without importing TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(x, tensorflow.data.Dataset)


def is_text(x: Any) -> bool:
    """Whether `x` is for the preprocessor: strings, pairs of them, or conversations."""
    if isinstance(x, str):
        return True
    if isinstance(x, Mapping):
        return bool({"prompts", "responses", "messages"} & set(x))
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "USO"
    if isinstance(x, Sequence) and len(x):
        return is_text(x[0])
    return getattr(getattr(x, "dtype", None), "name", "") == "string"  # a TensorFlow tensor


def to_batches(x, preprocessor, batch_size=None, shuffle=False):
    """`x` as something Keras's `fit` takes: batches of `(inputs, labels, weights)`."""
    if is_tf_dataset(x):
        return x.map(_needed(preprocessor)) if _spec_is_text(x.element_spec) else x
    if isinstance(x, keras.utils.PyDataset):
        return TextDataset(x, _needed(preprocessor)) if is_text(_features(x[0])) else x
    if is_text(x):
        return TextBatches(x, _needed(preprocessor), batch_size or 32, shuffle)
    return x


def split(texts, share):
    """The first texts, and the last `share` of them, to train on and to validate with."""
    texts = _by_row(texts)
    count = _count(texts)
    first = count - int(count * share)
    return _select(texts, range(first)), _select(texts, range(first, count))


def _needed(preprocessor):
    if preprocessor is None:
        raise ValueError(
            "Text needs a preprocessor, and this model has none (preprocessor=None). Attach one, "
            "or give integers: x={'token_ids', 'padding_mask'}, y and sample_weight."
        )
    return preprocessor


def _features(batch):
    return batch[0] if isinstance(batch, tuple) else batch


def _spec_is_text(spec):
    spec = _features(spec)
    if isinstance(spec, Mapping):
        return all(_spec_is_text(part) for part in spec.values())
    return getattr(getattr(spec, "dtype", None), "name", "") == "string"


class TextDataset(keras.utils.PyDataset):
    """A user's `PyDataset` of text batches, seen through the preprocessor."""

    def __init__(self, texts: keras.utils.PyDataset, preprocessor):
        super().__init__(workers=texts.workers, use_multiprocessing=False)
        self.texts, self.preprocessor = texts, preprocessor

    @property
    def num_batches(self):
        return self.texts.num_batches

    def __getitem__(self, index):
        return self.preprocessor(_features(self.texts[index]))

    def on_epoch_begin(self):
        self.texts.on_epoch_begin()

    def on_epoch_end(self):
        self.texts.on_epoch_end()


class TextBatches(keras.utils.PyDataset):
    """Texts held in memory, as batches of one shape.

    The last batch is filled up with rows of padding of weight 0: they add nothing to a loss that
    is averaged over tokens, and every step runs the same compiled program.
    """

    def __init__(self, texts, preprocessor, batch_size: int, shuffle: bool):
        super().__init__()
        self.texts, self.preprocessor = _by_row(texts), preprocessor
        self.batch_size, self.shuffle = batch_size, shuffle
        self.rows = None
        if preprocessor.pack:  # rows hold several texts, so they are made once, of all
            self.rows = _flatten(preprocessor(_select(self.texts, range(_count(self.texts)))))
        self.count = _count(self.texts) if self.rows is None else len(self.rows[0])
        self.order = np.arange(self.count)
        self.random = np.random.default_rng(np.random.randint(2**31))  # follows set_random_seed
        self.on_epoch_end()

    @property
    def num_batches(self):
        return -(-self.count // self.batch_size)

    def __getitem__(self, index):
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        if self.rows is None:
            rows = _flatten(self.preprocessor(_select(self.texts, chosen)))
        else:
            rows = [part[chosen] for part in self.rows]
        missing = self.batch_size - len(chosen)
        ids, mask, labels, weights = (np.pad(part, [(0, missing), (0, 0)]) for part in rows)
        return {"token_ids": ids, "padding_mask": mask}, labels, weights

    def on_epoch_end(self):
        if self.shuffle:
            self.random.shuffle(self.order)


def _flatten(batch):
    inputs, labels, weights = batch
    return [np.asarray(part) for part in (*inputs.values(), labels, weights)]


def _by_row(texts):
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, Mapping):
        return {key: _by_row(column) for key, column in texts.items()}
    return texts


def _count(texts):
    if isinstance(texts, Mapping):
        counts = {key: len(column) for key, column in texts.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"Columns must be of one length, not {counts}.")
        return next(iter(counts.values()))
    return len(texts)


def _select(texts, rows):
    if isinstance(texts, Mapping):
        return {key: [column[row] for row in rows] for key, column in texts.items()}
    return [texts[row] for row in rows]
