"""The packed rows of a recipe's corpus, as `fit` runs over them."""

import numpy as np

from keras_gemma.data.corpus import Rows


class CorpusRows:
    """Rows by their numbers: `rows[[0, 5]]` is `(inputs, labels, weights)`."""

    report = None  # nothing of a corpus is lost

    def __init__(self, rows: Rows):
        self.rows = rows

    @property
    def length(self) -> int:
        """Tokens of a row that the model sees; the last one is only a label."""
        return self.rows.token_ids.shape[1] - 1

    def __len__(self):
        return len(self.rows.token_ids)

    def __getitem__(self, chosen):
        token_ids, segments, weights = (np.asarray(part[chosen]) for part in self.rows)
        inputs = {"token_ids": token_ids[:, :-1], "padding_mask": segments[:, :-1]}
        # A label counts where it goes on with the document of the token before it.
        same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        return inputs, token_ids[:, 1:], weights[:, 1:] * same
