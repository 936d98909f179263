"""Random bits are the same on every backend: those that NumPy's unsigned integers give."""

import numpy as np
from keras import ops

from keras_gemma.random_bits import random_bits

GOLDEN = np.uint32(0x9E3779B9)


def mixed(x):
    for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(multiplier)
    return x ^ (x >> np.uint32(16))


def of_numpy(seed, counter, places):
    with np.errstate(over="ignore"):
        seed, counter = np.uint32(seed), np.uint32(counter)
        key = mixed(seed + mixed(counter + GOLDEN) * GOLDEN)
        other = mixed(key ^ mixed(counter + seed * GOLDEN))
        return mixed(mixed(places.astype("uint32") ^ key) + other)


def test_bits_are_those_of_unsigned_arithmetic():
    places = np.arange(1000, dtype="int32").reshape(10, 100)
    for seed, counter in ((0, 0), (7, 3), (2**31 - 1, 12345)):
        tensors = (ops.convert_to_tensor(np.int32(x)) for x in (seed, counter))
        got = ops.convert_to_numpy(random_bits(*tensors, ops.convert_to_tensor(places)))
        np.testing.assert_array_equal(got.view("uint32"), of_numpy(seed, counter, places))


def test_a_row_has_the_bits_of_its_seed_alone():
    seeds, counters = np.array([4, 5, 5], "int32"), np.array([1, 1, 2], "int32")
    places = np.arange(50, dtype="int32")[None]
    tensors = (ops.convert_to_tensor(x) for x in (seeds, counters, places))
    got = ops.convert_to_numpy(random_bits(*tensors)).view("uint32")
    for row in range(3):
        np.testing.assert_array_equal(got[row], of_numpy(seeds[row], counters[row], places[0]))


def test_every_bit_is_set_half_of_the_time():
    places = np.arange(100_000, dtype="int32")
    zero = ops.zeros((), "int32")
    bits = ops.convert_to_numpy(random_bits(zero, zero, ops.convert_to_tensor(places)))
    shares = [(bits >> bit & 1).mean() for bit in range(32)]
    np.testing.assert_allclose(shares, 0.5, atol=5 * 0.5 / np.sqrt(places.size))
