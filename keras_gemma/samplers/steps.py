"""What changes logits before a token is drawn: penalties, and functions of users.

B rows, V vocabulary, L text. A number is one for all rows, or an array B of one per row.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def column(number: Any) -> Any:
    """A number as it is; one number per row as a column."""
    return number if isinstance(number, (int, float)) else ops.expand_dims(number, axis=-1)


def token_counts(token_ids_BL, starts_B, ends_B, width: int):
    """How often each token stands in its row from `starts_B` to before `ends_B`, float32 BV.

    >>> text = ops.array([[1, 2, 2, 0]])
    >>> ops.convert_to_numpy(token_counts(text, ops.array([1]), ops.array([3]), 4)).tolist()
    [[0.0, 0.0, 2.0, 0.0]]
    """
    rows, length = ops.shape(token_ids_BL)
    place_L = ops.arange(length, dtype="int32")[None]
    counted_BL = ops.logical_and(place_L >= starts_B[:, None], place_L < ends_B[:, None])
    row_BL = ops.broadcast_to(ops.arange(rows, dtype="int32")[:, None], (rows, length))
    where = ops.stack([row_BL, ops.cast(token_ids_BL, "int32")], axis=-1)
    # A scatter touches L numbers, where one-hot vectors would be L times the vocabulary; and
    # `ops.scatter` takes one index after the other in Python on PyTorch.
    return ops.scatter_update(
        ops.zeros((rows, width), "float32"),
        ops.reshape(where, (-1, 2)),
        ops.reshape(ops.cast(counted_BL, "float32"), (-1,)),
        reduction="add",
    )


def penalize_repetition(logits_BV, counts_BV, penalty):
    """Make tokens of the text less likely (arXiv 1909.05858, as Transformers does it).

    Their positive logits are divided by `penalty`, the negative ones multiplied.

    >>> logits, counts = ops.array([[2.0, -2.0, 1.0]]), ops.array([[1.0, 3.0, 0.0]])
    >>> ops.convert_to_numpy(penalize_repetition(logits, counts, 2.0)).tolist()
    [[1.0, -4.0, 1.0]]
    """
    penalty = column(penalty)
    penalized_BV = ops.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return ops.where(counts_BV > 0, penalized_BV, logits_BV)


def penalize_use(logits_BV, counts_BV, presence=None, frequency=None):
    """Subtract `presence` from tokens that were used, and `frequency` for each time.

    >>> logits, counts = ops.array([[2.0, 1.0, 1.0]]), ops.array([[2.0, 1.0, 0.0]])
    >>> ops.convert_to_numpy(penalize_use(logits, counts, 0.5, 0.25)).tolist()
    [[1.0, 0.25, 1.0]]
    """
    if presence is not None:
        logits_BV = logits_BV - ops.cast(counts_BV > 0, "float32") * column(presence)
    if frequency is not None:
        logits_BV = logits_BV - counts_BV * column(frequency)
    return logits_BV


def applied(step: Callable, logits_BV, context: Any):
    """What a user's function makes of logits, in float32; its shape is checked."""
    made = step(logits_BV, context)
    wanted, got = tuple(logits_BV.shape), getattr(made, "shape", None)
    if got is None or tuple(got) != wanted:
        came = type(made).__name__ if got is None else f"shape {tuple(got)}"
        raise ValueError(
            f"The sampling step {step_name(step)} returned {came}; it must return logits of the "
            f"shape that it was given, (rows, vocabulary) = {wanted}."
        )
    return ops.cast(made, "float32")


def are_numbers(logits_BV):
    """Whether a row can be drawn from, B: no NaN, nothing infinite, and not all banned."""
    # Every comparison with NaN is false.
    below_BV, above_BV = logits_BV < np.inf, logits_BV > -np.inf
    return ops.logical_and(ops.all(below_BV, axis=-1), ops.any(above_BV, axis=-1))


def checked_step(step: Callable | str) -> Callable:
    """A user's function, or the one that is registered by a name."""
    found = keras.saving.get_registered_object(step) if isinstance(step, str) else step
    if not callable(found):
        raise TypeError(
            f"A sampling step is a function (logits, context) -> logits, or the name of one that "
            f"keras.saving.register_keras_serializable knows, not {step!r}."
        )
    return found


def saved_step(step: Callable) -> str:
    """The name by which a user's function is registered."""
    name = keras.saving.get_registered_name(step) if hasattr(step, "__name__") else ""
    if keras.saving.get_registered_object(name) is not step:
        raise ValueError(
            f"The sampling step {step_name(step)} can't be saved: it has no name by which it "
            "would be found. Decorate it with keras.saving.register_keras_serializable()."
        )
    return name


def step_name(step: Callable) -> str:
    """What to call a user's function in a message."""
    return getattr(step, "__name__", type(step).__name__)
