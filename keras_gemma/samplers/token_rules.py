"""What a sampler was told of single tokens: biases, bans, and those that an answer begins with.

B rows, V vocabulary, n tokens with a bias, R either 1 or the rows of a batch.
"""

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gemma.samplers.options import is_number


class TokenRules(NamedTuple):
    """Checked and as arrays. A ban is a bias of minus infinity."""

    ids: np.ndarray  # int32 n
    bias: np.ndarray  # float32 Rn
    forced: tuple[int | None, ...]  # by place in the answer; `None` is free
    largest: dict[str, int]  # id, by option

    @classmethod
    def of(cls, logit_bias: Mapping, banned_tokens: Iterable[int], forced_tokens: Any):
        """The rules that a user's options mean.

        Raises:
            TypeError: an id that is not a whole number, a bias that is not a number.
            ValueError: an id below 0; a bias of NaN or plus infinity; lists of biases of unlike
                length; a forced token that is banned.

        >>> TokenRules.of({3: 0.5}, [7], {1: 2}).bias.tolist()
        [[0.5, -inf]]
        """
        columns = {_id("logit_bias", i): _column(i, bias) for i, bias in logit_bias.items()}
        banned = [_id("banned_tokens", i) for i in banned_tokens]
        lengths = {len(column) for column in columns.values()} - {1}
        if len(lengths) > 1:
            raise ValueError(f"logit_bias has lists of {sorted(lengths)} numbers: one per row.")
        largest = {"logit_bias": max(columns, default=-1), "banned_tokens": max(banned, default=-1)}
        columns |= {token: np.array([-np.inf]) for token in banned}
        forced = _forced(forced_tokens)
        ids = [token for token in forced if token is not None]
        largest["forced_tokens"] = max(ids, default=-1)
        for token in ids:
            if token in columns and (columns[token] == -np.inf).any():
                raise ValueError(f"forced_tokens has id {token}, which is banned.")
        rows = max(lengths, default=1)
        bias = [np.broadcast_to(column, rows) for column in columns.values()]
        bias = np.array(bias, "float32").reshape(len(columns), rows).T
        return cls(np.array(list(columns), "int32"), bias, forced, largest)

    def check(self, vocabulary_size: int) -> None:
        """Raise a ValueError unless all ids are in the vocabulary and some token may come."""
        for option, token in self.largest.items():
            if token >= vocabulary_size:
                raise ValueError(
                    f"{option} has id {token}, which is outside the vocabulary of "
                    f"{vocabulary_size}: 0 to {vocabulary_size - 1}."
                )
        if len(self.ids) == vocabulary_size and (self.bias == -np.inf).all(axis=1).any():
            raise ValueError(f"All {vocabulary_size} tokens are banned; one must be allowed.")

    def biased(self, logits_BV):
        """The logits with what is added to few of them."""
        if not len(self.ids):
            return logits_BV
        return add_bias(logits_BV, self.ids, self.bias)

    def forcing(self, logits_BV, places_B):
        """The logits of rows at a forced place leave one token; `places_B` are of the answer."""
        ids = [-1 if token is None else token for token in self.forced]
        return force(logits_BV, places_B, np.array(ids, "int32"))


def add_bias(logits_BV, ids: np.ndarray, bias: np.ndarray):
    """Add to the logits of few tokens.

    >>> logits = ops.zeros((2, 3))
    >>> got = add_bias(logits, np.array([2]), np.array([[1.0], [-np.inf]], "float32"))
    >>> ops.convert_to_numpy(got).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, -inf]]
    """
    rows = np.repeat(np.arange(len(bias)), len(ids))
    where = np.stack([rows, np.tile(ids, len(bias))], axis=-1).astype("int32")
    bias_RV = ops.zeros((len(bias), logits_BV.shape[-1]), "float32")
    return logits_BV + ops.scatter_update(bias_RV, where, bias.reshape(-1), reduction="add")


def force(logits_BV, places_B, ids: np.ndarray):
    """Leave one token of a row whose place in `ids` has one; -1 is a free place.

    >>> logits = ops.array([[1.0, 2.0], [3.0, 4.0]])
    >>> ops.convert_to_numpy(force(logits, ops.array([0, 1]), np.array([1]))).tolist()
    [[-inf, 0.0], [3.0, 4.0]]
    """
    table = ops.convert_to_tensor(np.append(ids, -1), "int32")  # past its end all is free
    forced_B1 = ops.take(table, ops.clip(places_B, 0, len(ids)))[:, None]
    this_BV = ops.arange(logits_BV.shape[-1], dtype="int32")[None] == forced_B1
    return ops.where(forced_B1 >= 0, ops.where(this_BV, 0.0, -np.inf), logits_BV)


def _id(option, token):
    try:
        token = operator.index(token)
    except TypeError:
        raise TypeError(f"{option} takes ids of tokens, not {token!r}.") from None
    if token < 0:
        raise ValueError(f"{option} has id {token}: ids count from 0.")
    return token


def _column(token, bias):
    rows = bias if isinstance(bias, (list, tuple, np.ndarray)) else [bias]
    for number in rows:
        if not is_number(number):
            raise TypeError(f"The bias of id {token} must be a number, not {number!r}.")
        if not number < math.inf:
            raise ValueError(
                f"The bias of id {token} must be finite, or minus infinity for a ban, not "
                f"{number!r}. To have one token only, use forced_tokens."
            )
    return np.array(rows, "float32")


def _forced(forced_tokens):
    if isinstance(forced_tokens, Mapping):
        places = {operator.index(place): token for place, token in forced_tokens.items()}
        if min(places, default=0) < 0:
            raise ValueError(f"forced_tokens has place {min(places)}: places count from 0.")
        forced_tokens = [places.get(place) for place in range(max(places, default=-1) + 1)]
    return tuple(None if token is None else _id("forced_tokens", token) for token in forced_tokens)
