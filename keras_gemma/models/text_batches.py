"""Texts as batches of integers: what `fit` runs over."""

from collections.abc import Mapping

import keras
import numpy as np


class TextDataset(keras.utils.PyDataset):
    """A user's `PyDataset` of text batches, seen through the preprocessor."""

    def __init__(self, texts: keras.utils.PyDataset, preprocessor):
        super().__init__(workers=texts.workers, use_multiprocessing=False)
        self.texts, self.preprocessor = texts, preprocessor

    @property
    def num_batches(self):
        return self.texts.num_batches

    def __getitem__(self, index):
        return self.preprocessor(features(self.texts[index]))

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
        self.texts, self.preprocessor = by_row(texts), preprocessor
        self.batch_size, self.shuffle = batch_size, shuffle
        self.rows = None
        if preprocessor.pack:  # rows hold several texts, so they are made once, of all
            self.rows = _flatten(preprocessor(select(self.texts, range(count(self.texts)))))
        self.count = count(self.texts) if self.rows is None else len(self.rows[0])
        self.order = np.arange(self.count)
        self.random = np.random.default_rng(np.random.randint(2**31))  # follows set_random_seed
        self.on_epoch_end()

    @property
    def num_batches(self):
        return -(-self.count // self.batch_size)

    def __getitem__(self, index):
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        if self.rows is None:
            rows = _flatten(self.preprocessor(select(self.texts, chosen)))
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


def by_row(texts):
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, Mapping):
        return {key: by_row(column) for key, column in texts.items()}
    return texts


def count(texts):
    if isinstance(texts, Mapping):
        counts = {key: len(column) for key, column in texts.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"Columns must be of one length, not {counts}.")
        return next(iter(counts.values()))
    return len(texts)


def select(texts, rows):
    if isinstance(texts, Mapping):
        return {key: [column[row] for row in rows] for key, column in texts.items()}
    return [texts[row] for row in rows]


def features(batch):
    """What the model is given, of a batch that may bring labels and weights."""
    return batch[0] if isinstance(batch, tuple) else batch
