"""Rounding by chance, so that many small steps add up in a dtype too coarse for one of them.

In bfloat16 a weight of 1 doesn't move by less than 1/512, and a mean with a memory of 0.999 doesn't
move at all. Rounded up or down in proportion to how near each is, both move as they should on average.
"""

from typing import Any

from keras import ops

from keras_gemma.random_bits import random_bits


def round_by_chance(x: Any, seed: int, counter: Any, places: Any) -> Any:
    """A float32 tensor as bfloat16: one of the two neighbours, whose mean over counters is `x`.

    Args:
        x: float32.
        seed: a number of this tensor's own.
        counter: int32 scalar, the step.
        places: int32 of the shape of `x`, where each number stands in its tensor.

    >>> third = ops.full((1000,), 1 + 1 / 384)  # a third of the way from 1 to its neighbour, 1 + 1/128
    >>> up = round_by_chance(third, 0, 0, ops.arange(1000)) > 1
    >>> int(ops.sum(ops.cast(up, "int32")))
    353
    """
    noise = random_bits(ops.cast(seed, "int32"), ops.cast(counter, "int32"), places) & 0xFFFF
    # The upper half of a float32 is a bfloat16: what is below carries over with its own probability.
    bits = (ops.view(x, "int32") + noise) & -0x10000
    rounded = ops.view(bits, "float32")
    return ops.cast(ops.where(ops.isnan(x), x, rounded), "bfloat16")
