"""Texts as batches of integers: what `fit` runs over."""

import keras
import numpy as np


class TextDataset(keras.utils.PyDataset):
    """A user's `PyDataset` of text batches, each seen through `prepare`."""

    def __init__(self, texts: keras.utils.PyDataset, prepare):
        super().__init__(workers=texts.workers, use_multiprocessing=False)
        self.texts, self.prepare = texts, prepare

    @property
    def num_batches(self):
        return self.texts.num_batches

    def __getitem__(self, index):
        return self.prepare(self.texts[index])

    def on_epoch_begin(self):
        self.texts.on_epoch_begin()

    def on_epoch_end(self):
        self.texts.on_epoch_end()


class TextBatches(keras.utils.PyDataset):
    """Prepared rows as batches of one shape.

    The last batch is filled up with rows of padding of weight 0: they add nothing to a loss that
    is averaged over tokens, and every step runs the same compiled program.

    Args:
        rows: what has a length, and for a list of numbers gives `(inputs, labels, weights)` of
            these rows; and a `report`.
    """

    def __init__(self, rows, batch_size: int, shuffle: bool):
        super().__init__()
        self.rows, self.batch_size, self.shuffle = rows, batch_size, shuffle
        self.order = np.arange(len(rows))
        self.random = np.random.default_rng(np.random.randint(2**31))  # follows set_random_seed
        self.on_epoch_end()

    @property
    def report(self):
        """What became of the data, a `DataReport`."""
        return self.rows.report

    @property
    def num_batches(self):
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index):
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        inputs, labels, weights = self.rows[chosen]
        missing = [(0, self.batch_size - len(chosen)), (0, 0)]
        inputs = {name: np.pad(part, missing) for name, part in inputs.items()}
        return inputs, np.pad(labels, missing), np.pad(weights, missing)

    def on_epoch_end(self):
        if self.shuffle:
            self.random.shuffle(self.order)


def features(batch):
    """What the model is given, of a batch that may bring labels and weights."""
    return batch[0] if isinstance(batch, tuple) else batch
