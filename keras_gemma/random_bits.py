"""Random bits that depend on nothing but a seed, a counter and a number's own place.

A counter-based hash keeps no state: the draw for one place is the same on every backend, in
whatever order and in whatever pieces numbers are drawn.

B rows, C places.
"""

from typing import Any

from keras import ops

# The 32-bit mixer "lowbias32" of the Hash Prospector (bias 0.17, measured there), and the golden
# ratio times 2**32, which spreads consecutive numbers.
MULTIPLIERS = 0x7FEB352D, 0x846CA68B - 2**32
GOLDEN = 0x9E3779B9 - 2**32


def random_bits(seeds_B: Any, counters_B: Any, places_BC: Any) -> Any:
    """32 random bits for each place, as int32 of the shape of `places_BC`.

    Args:
        seeds_B: int32, one seed per row; or a single one, and then places have any shape.
        counters_B: int32, of the same shape: a step, say.
        places_BC: int32; there may be one row for all.

    >>> random_bits(ops.array([7]), ops.array([1]), ops.array([[0, 1]])).shape == (1, 2)
    True
    """
    # Two keys of 32 bits: with one, rows whose keys differ little would share their numbers.
    key_B = _mix(seeds_B + _mix(counters_B + GOLDEN) * GOLDEN)
    other_B = _mix(key_B ^ _mix(counters_B + seeds_B * GOLDEN))
    if len(key_B.shape):
        key_B, other_B = key_B[:, None], other_B[:, None]
    return _mix(_mix(places_BC ^ key_B) + other_B)


def _mix(x):
    """Every bit of an int32 into every other. Products wrap around on all backends."""
    first, second = MULTIPLIERS
    x = (x ^ _shift(x, 16)) * first
    x = (x ^ _shift(x, 15)) * second
    return x ^ _shift(x, 16)


def _shift(x, bits):
    """Right, filling with zeros: the shift of a signed number fills with its sign."""
    return ops.right_shift(x, bits) & ((1 << (32 - bits)) - 1)
