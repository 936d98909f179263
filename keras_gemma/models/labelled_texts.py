"""Texts with labels as batches of rows that are no longer than their longest text needs.

A program is compiled for each length of a batch; `bucket` keeps them few.
"""

import hashlib
from typing import Any, Literal

import keras
import numpy as np

from keras_gemma.generation import bucket

# So many batches of texts are sorted by length at a time: enough for rows of equal lengths to meet,
# few enough for each epoch to mix them anew.
_WINDOW = 50


class LabelledTexts(keras.utils.PyDataset):
    """Texts held in memory, as batches of `(inputs, labels, weights)`; the last two may be `None`.

    A shuffled order follows from `seed` and `epoch`, which may be set, and from nothing that came
    before, so a run that was killed goes on in the middle of an epoch.

    Args:
        preprocessor: a `GemmaTextClassifierPreprocessor`.
        texts: a list of them, or a tuple of lists, for texts of several parts.
        labels: an array with one label a text.
        weights: likewise.
        batch_size: texts, or groups of them, in a batch.
        order: `"given"`; `"by length"`, which takes the least time; or `"shuffled"`, which takes
            little more, as texts of like length stand together.
        group: so many neighbouring texts are never parted.
        seed: of a shuffled order; drawn from NumPy's generator, which `set_random_seed` sets, if it
            is left out.
    """

    def __init__(
        self,
        preprocessor: Any,
        texts: Any,
        labels: Any = None,
        weights: Any = None,
        *,
        batch_size: int = 32,
        order: Literal["given", "by length", "shuffled"] = "given",
        group: int = 1,
        seed: int | None = None,
    ):
        super().__init__()
        self.preprocessor, self.limit = preprocessor, preprocessor.sequence_length
        self.rows = preprocessor.rows(texts)
        self.beside = []
        for name, column in (("labels", labels), ("weights", weights)):
            column = None if column is None else np.asarray(column)
            if column is not None and len(column) != len(self.rows):
                raise ValueError(f"There are {len(self.rows)} texts and {len(column)} {name}.")
            self.beside.append(column)
        if not self.rows:
            raise ValueError("There is no text.")
        self.order, self.batch_size, self.group = order, batch_size, group
        self.lengths = np.array([len(row) for row in self.rows]).reshape(-1, group).max(axis=1)
        self.seed = np.random.randint(2**31) if order == "shuffled" and seed is None else seed
        self.epoch, self._orders = 0, {}
        self.varies = order != "given" and len(set(self.widths)) > 1

    @property
    def num_batches(self):
        return -(-len(self.lengths) // self.batch_size)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of the first batch, tokens of a row: it is the largest, unless the order is given."""
        width = self.widths[0] if self.varies else max(self.widths)
        return len(self.batches[0]) * self.group, width

    @property
    def batches(self) -> list[np.ndarray]:
        """The groups of each batch of this epoch."""
        return self._arranged()[0]

    @property
    def widths(self) -> list[int]:
        """Tokens in the rows of each batch."""
        return self._arranged()[1]

    @property
    def places(self):
        """Where each row of the batches, one after the other, comes from."""
        return np.concatenate([self._members(batch) for batch in self.batches])

    def __getitem__(self, index):
        chosen = self._members(self.batches[index])
        width = self.widths[index] if self.varies else max(self.widths)
        x = self.preprocessor.padded([self.rows[row] for row in chosen], width)
        return keras.utils.pack_x_y_sample_weight(
            x, *(None if column is None else column[chosen] for column in self.beside)
        )

    def fingerprint(self) -> str:
        """A hash of all texts, labels and weights, to know the data of a run again."""
        digest = hashlib.sha256(self.lengths.tobytes())
        for part in (*self.rows, *self.beside):
            digest.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def _members(self, batch):
        return (batch[:, None] * self.group + np.arange(self.group)).ravel()

    def _arranged(self):
        key = (self.seed, self.epoch) if self.order == "shuffled" else ()
        if key not in self._orders:
            self._orders = {key: self._arrange(np.random.default_rng(key))}
        return self._orders[key]

    def _arrange(self, random):
        size, count = self.batch_size, len(self.lengths)
        order = np.arange(count)
        if self.order == "by length":
            order = np.argsort(self.lengths, kind="stable")
        elif self.order == "shuffled":
            order = random.permutation(count)
            for start in range(0, count, size * _WINDOW):
                window = order[start : start + size * _WINDOW]
                window[:] = window[np.argsort(self.lengths[window], kind="stable")]
        batches = [order[start : start + size] for start in range(0, count, size)]
        if self.order == "shuffled":
            random.shuffle(batches)
        longest = [self.lengths[batch].max() for batch in batches]
        if self.order != "given":
            # The longest first: if it does not fit in memory, that shows at once. Then the shortest:
            # from the first two batches Keras on TensorFlow concludes which sizes may change.
            ends = [int(np.argmax(longest)), int(np.argmin(longest))][: len(batches)]
            rest = [at for at in range(len(batches)) if at not in ends]
            batches = [batches[at] for at in dict.fromkeys([*ends, *rest])]
            longest = [self.lengths[batch].max() for batch in batches]
        return batches, [min(bucket(int(length)), self.limit) for length in longest]
