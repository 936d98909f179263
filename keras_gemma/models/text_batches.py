"""Texts as batches of integers: what `fit` runs over."""

import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

_TOGETHER = 256  # rows that are read at once to be known again


class TextBatches(keras.utils.PyDataset):
    """Rows of integers as batches of one shape, in an order that follows from a seed and the epoch.

    The last batch may be filled up with rows of padding of weight 0: they add nothing to a loss that
    is averaged over tokens, and every step runs the same compiled program.

    The order follows from nothing that came before, so a run that was killed goes on in the middle
    of an epoch: at `start`, a place `(epoch, batch)`. Keras asks for the batches before it, too, and
    throws them away, so they are not made.

    Args:
        rows: what has a length, and for a list of numbers gives `(inputs, labels, weights)` of
            these rows; and a `report`.
        batch_size: rows in a batch; fewer, if there are no more.
        shuffle: whether the rows come in another order in each epoch.
        seed: of that order; drawn from NumPy's generator, which `set_random_seed` sets, if it is
            left out.
        steps: batches in an epoch. `None` is each row once; a number goes on in the next epoch
            where the last one ended, and after the last row in a new order, with no row of padding.
        filled: whether the last batch has as many rows as the others.
    """

    def __init__(
        self,
        rows: Any,
        batch_size: int,
        shuffle: bool,
        *,
        seed: int | None = None,
        steps: int | None = None,
        filled: bool = True,
    ):
        super().__init__()
        self.rows, self.batch_size, self.shuffle, self.steps = rows, batch_size, shuffle, steps
        self.filled = filled
        self.seed = np.random.randint(2**31) if shuffle and seed is None else seed
        self.epoch, self.start = 0, (0, 0)
        self.weights = {}  # of all tokens of a batch of this epoch, by its place
        self._orders, self._last = {}, None

    @property
    def num_batches(self):
        return self.steps or -(-len(self.rows) // self.batch_size)

    @property
    def report(self):
        """What became of the data, a `DataReport`."""
        return self.rows.report

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of a batch, tokens of a row."""
        return np.shape(self[0][0]["token_ids"])

    def __getitem__(self, index):
        if self._last is None or (self.epoch, index) >= self.start:
            self._last = self._batch(self._chosen(index))
            self.weights[index] = float(self._last[-1].sum())
        return self._last

    def fingerprint(self) -> str:
        """A hash of all rows, to know the data of a run again."""
        digest = hashlib.sha256()
        for first in range(0, len(self.rows), _TOGETHER):
            chosen = np.arange(first, min(first + _TOGETHER, len(self.rows)))
            for part in keras.tree.flatten(self.rows[chosen]):
                digest.update(np.ascontiguousarray(part).reshape(-1).view("uint8"))
        return digest.hexdigest()

    def _batch(self, chosen):
        missing = self.batch_size - len(chosen) if self.filled else 0
        filled = lambda part: np.pad(part, [(0, missing)] + [(0, 0)] * (np.ndim(part) - 1))
        return keras.tree.map_structure(filled, self.rows[chosen])

    def _chosen(self, index):
        first = index * self.batch_size
        if self.steps is None:
            return self._order(self.epoch)[first : first + self.batch_size]
        first += self.epoch * self.steps * self.batch_size
        places = [divmod(place, len(self.rows)) for place in range(first, first + self.batch_size)]
        return np.array([self._order(turn)[place] for turn, place in places])

    def _order(self, turn):
        """The rows of one turn through all of them."""
        if not self.shuffle:
            return np.arange(len(self.rows))
        key = self.seed, turn
        if key not in self._orders:
            self._orders = {key: np.random.default_rng(key).permutation(len(self.rows))}
        return self._orders[key]


class TextDataset(keras.utils.PyDataset):
    """A user's `PyDataset` of text batches, each seen through `prepare(batch, is_first)`.

    Keras asks for a batch more than once; `is_first` says that it was not asked for before.
    """

    def __init__(self, texts: keras.utils.PyDataset, prepare: Callable):
        super().__init__(workers=texts.workers, use_multiprocessing=False)
        self.texts, self.prepare, self._seen = texts, prepare, set()

    @property
    def num_batches(self):
        return self.texts.num_batches

    def __getitem__(self, index):
        is_first = index not in self._seen
        self._seen.add(index)
        return self.prepare(self.texts[index], is_first)

    def on_epoch_begin(self):
        self.texts.on_epoch_begin()

    def on_epoch_end(self):
        self.texts.on_epoch_end()


def features(batch):
    """What the model is given, of a batch that may bring labels and weights."""
    return batch[0] if isinstance(batch, tuple) else batch


def texts_of(batch):
    """The texts of a batch, or of a row, which bring their own labels.

    Raises:
        ValueError: there are others beside them.
    """
    if isinstance(batch, tuple) and any(part is not None for part in batch[1:]):
        raise ValueError(
            f"A tuple of {len(batch)} came, which is a text with labels beside it. Text brings its own labels and "
            "weights: give texts alone, and pairs as {'prompts': [...], 'responses': [...]}."
        )
    return features(batch)
