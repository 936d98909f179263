"""Random numbers that depend on nothing but a seed, a position and a token.

A counter-based hash keeps no state: the draw for one token of one text is the same on every
backend, in any batch and in whatever pieces the text is generated.

B rows, C candidates, V vocabulary.
"""

import numpy as np
from keras import ops

from keras_gemma.random_bits import GOLDEN, MULTIPLIERS, random_bits


def gumbel_noise(seeds_B, counters_B, width: int):
    """Gumbel noise for `width` tokens of each row, float32 (rows, width).

    The token with the largest sum of log-probability and noise is a draw from the distribution.

    Args:
        seeds_B: int32 (rows,), one seed per text.
        counters_B: int32 (rows,), the place in the text that is drawn.
        width: how many tokens there are.

    >>> noise = gumbel_noise(ops.array([7, 7]), ops.array([0, 1]), 3)
    >>> [[f"{x:.3f}" for x in row] for row in ops.convert_to_numpy(noise)]
    [['0.498', '0.292', '1.292'], ['1.214', '1.057', '2.982']]
    """
    return noise_of(seeds_B, counters_B, ops.arange(width, dtype="int32")[None])


def noise_of(seeds_B, counters_B, ids_BC):
    """The same noise for the tokens `ids_BC` only: int32 (rows, candidates), rows may be 1."""
    seeds_B, counters_B = (ops.cast(x, "int32") for x in (seeds_B, counters_B))
    bits_BC = random_bits(seeds_B, counters_B, ids_BC)
    # 31 bits as a float keep 24 of them wherever they lie: small numbers, which make the largest
    # noise, stay fine enough that 256,000 tokens don't tie.
    uniform_BC = (ops.cast(bits_BC & 0x7FFFFFFF, "float32") + 0.5) * 2.0**-31
    return -ops.log(-ops.log1p(-ops.minimum(uniform_BC, 1 - 2.0**-24)))


def row_seeds(seed: int, rows: int) -> list[int]:
    """One seed for each row of a batch, from 0 to 2**31 - 1; the first row has `seed` itself.

    >>> row_seeds(7, 3)
    [7, 1071229915, 1218197195]
    """
    numbers = np.arange(rows, dtype="uint32") * np.uint32(GOLDEN % 2**32) + np.uint32(seed % 2**31)
    for shift, multiplier in zip((16, 15), MULTIPLIERS):
        numbers = (numbers ^ (numbers >> np.uint32(shift))) * np.uint32(multiplier % 2**32)
    numbers = (numbers ^ (numbers >> np.uint32(16))) & np.uint32(0x7FFFFFFF)
    return [seed % 2**31, *numbers[1:].tolist()][:rows]
