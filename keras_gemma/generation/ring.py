"""Arrays in which each row is a ring: token number n of a row lies in slot n modulo the slots.

B batch, T new tokens, S slots.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gemma.generation.compiled import write_rows

_FEW = 64  # tokens of all rows together up to which slots are written one by one


def added(old: Sequence[Any], new: Sequence[Any], stored_B: Any, real_BT: Any) -> tuple:
    """`(arrays, stored_B)` with the real ones of the new tokens in their slots.

    `old` are arrays BS… that nobody else needs any more: they may be written in place. `new` are
    arrays BT… of the same kinds. What isn't real takes no slot. The last of them is BS, and an only
    row may lack its axis in the others.
    """
    real_BT = ops.cast(real_BT, "int32")
    rows, tokens = real_BT.shape
    slots = old[-1].shape[1]
    few = rows is not None and rows * tokens <= _FEW and tokens <= slots
    put = _one_by_one if few else _all_at_once
    count_B = ops.sum(real_BT, axis=1)
    return put(old, new, stored_B, count_B, real_BT), stored_B + count_B


def _one_by_one(old, new, stored_B, count_B, real_BT):
    slots, tokens = old[-1].shape[1], real_BT.shape[1]
    if tokens == 1:
        rank_BT = ops.zeros_like(real_BT)
    else:  # the real ones in their order, then the others, so that no two are given one slot
        before_BT = ops.cumsum(real_BT, axis=1) - real_BT
        place_T = ops.arange(tokens, dtype="int32")
        rank_BT = ops.where(real_BT > 0, before_BT, count_B[:, None] + place_T - before_BT)
    slot_BT = (stored_B[:, None] + rank_BT) % slots
    return [write_rows(there, slot_BT, added, real_BT > 0) for there, added in zip(old, new)]


def _all_at_once(old, new, stored_B, count_B, real_BT):
    slots, tokens = old[-1].shape[1], real_BT.shape[1]
    # Where in the chunk its 1st, 2nd, … real token stands: padding is sorted behind.
    place_T = ops.arange(tokens, dtype="int32")
    order_BT = ops.argsort(place_T + tokens * (1 - real_BT), axis=1)
    # A slot keeps the newest token whose number is the slot's, modulo the slots.
    newest_B1 = (stored_B + count_B)[:, None] - 1
    rank_BS = numbers(newest_B1, slots) - stored_B[:, None]
    fresh_BS = rank_BS >= 0
    source_BS = ops.take_along_axis(
        ops.cast(order_BT, "int32"), ops.clip(rank_BS, 0, tokens - 1), axis=1
    )

    def put(there, added):
        shape = (-1, slots) + (1,) * (len(there.shape) - 2)
        chosen = ops.take_along_axis(added, ops.reshape(source_BS, shape), axis=1)
        return ops.where(ops.reshape(fresh_BS, shape), ops.cast(chosen, there.dtype), there)

    return [put(*pair) for pair in zip(old, new)]


def numbers(newest_B1: Any, slots: int) -> Any:
    """The number of the token in each slot when `newest_B1` was the last; below 0: none yet.

    >>> ops.convert_to_numpy(numbers(ops.array([[5], [1]]), 4)).tolist()
    [[4, 5, 2, 3], [0, 1, -2, -1]]
    """
    return newest_B1 - (newest_B1 - ops.arange(slots, dtype="int32")) % slots
