"""What samplers are made of: functions of logits and probabilities.

B rows, V vocabulary, L text, C candidates.
"""

from keras import ops


def penalize_repetition(logits_BV, token_ids_BL, lengths_B, penalty: float):
    """Make tokens of the text so far less likely (arXiv 1909.05858, as Transformers does it).

    Positive logits are divided by `penalty`, negative ones multiplied; 1 changes nothing.

    >>> logits = ops.array([[2.0, -2.0, 1.0]])
    >>> text, length = ops.array([[0, 1, 2]]), ops.array([2])
    >>> ops.convert_to_numpy(penalize_repetition(logits, text, length, 2.0)).tolist()
    [[1.0, -4.0, 1.0]]
    """
    rows, length = ops.shape(token_ids_BL)
    row_BL = ops.broadcast_to(ops.arange(rows, dtype="int32")[:, None], (rows, length))
    where = ops.stack([row_BL, ops.cast(token_ids_BL, "int32")], axis=-1)
    real_BL = ops.arange(length, dtype="int32")[None] < lengths_B[:, None]
    # A scatter touches L numbers; one-hot vectors would be L times the vocabulary.
    count_BV = ops.scatter(
        ops.reshape(where, (-1, 2)),
        ops.reshape(ops.cast(real_BL, "float32"), (-1,)),
        ops.shape(logits_BV),
    )
    penalized_BV = ops.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return ops.where(count_BV > 0, penalized_BV, logits_BV)


def most_likely(probabilities_BV, k: int | None):
    """The `k` largest probabilities, largest first, and their tokens; all of them for `None`."""
    width = probabilities_BV.shape[-1]
    return ops.top_k(probabilities_BV, k=min(k or width, width), sorted=True)


def drop_tail(probabilities_BC, p: float):
    """Zero what follows the smallest leading set that holds more than `p`.

    Probabilities come largest first. The first one always stays.

    >>> ops.convert_to_numpy(drop_tail(ops.array([[0.5, 0.25, 0.125]]), 0.6)).tolist()
    [[0.5, 0.25, 0.0]]
    """
    if p >= 1:  # the sum of all may well round to more than 1
        return probabilities_BC
    before_BC = ops.cumsum(probabilities_BC, axis=-1)[:, :-1]
    kept_BC = ops.concatenate([ops.ones_like(before_BC[:, :1], "bool"), before_BC <= p], axis=-1)
    return ops.where(kept_BC, probabilities_BC, 0.0)
