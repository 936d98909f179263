"""Arrays of texts as models of Keras are fitted on them."""

from typing import Any

import numpy as np


def fit(model: Any, ids: np.ndarray, rows: int) -> float:
    """A step for every `rows` texts, each token after the first a label; the mean loss."""
    x, y = ids[:, :-1], ids[:, 1:]
    inputs, weights = {"token_ids": x, "padding_mask": np.ones_like(x)}, np.ones(y.shape, "float32")
    told = model.fit(inputs, y, rows, sample_weight=weights, shuffle=False, verbose=0)
    return told.history["loss"][-1]
