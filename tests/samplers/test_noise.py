"""The noise is what the formula says, on every backend, and random enough to sample with."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_gemma.samplers import gumbel_noise, row_seeds


def uint(x):
    return np.asarray(x).astype("uint32")


def mixed(x):
    x = uint(x)
    x = (x ^ (x >> uint(16))) * uint(0x7FEB352D)
    x = (x ^ (x >> uint(15))) * uint(0x846CA68B)
    return x ^ (x >> uint(16))


def reference(seeds, counters, width):
    """The same noise in numpy, from the definition, with unsigned numbers and in float64."""
    golden = uint(0x9E3779B9)
    seeds, counters = uint(seeds), uint(counters)
    key = mixed(seeds + mixed(counters + golden) * golden)
    other = mixed(key ^ mixed(counters + seeds * golden))
    bits = mixed(mixed(np.arange(width, dtype="uint32") ^ key[:, None]) + other[:, None])
    uniform = ((bits & uint(0x7FFFFFFF)).astype("float32").astype("float64") + 0.5) * 2.0**-31
    return -np.log(-np.log1p(-np.minimum(uniform, 1 - 2.0**-24)))


def drawn(seeds, counters, width):
    seeds, counters = np.array(seeds, "int32"), np.array(counters, "int32")
    return ops.convert_to_numpy(gumbel_noise(seeds, counters, width))


def test_numbers_are_the_same_on_every_backend():
    seeds, counters = [0, 7, 2**31 - 1, -5, 7], [0, 3, 2**31 - 1, 17, 4]
    got = drawn(seeds, counters, 5000)
    np.testing.assert_allclose(got, reference(seeds, counters, 5000), rtol=1e-5, atol=1e-6)
    golden = [[0.497970, 0.292270, 1.292156], [1.214209, 1.056969, 2.981615]]
    np.testing.assert_allclose(drawn([7, 7], [0, 1], 3), golden, atol=1e-5)


def test_bits_are_the_same_inside_a_compiled_program():
    compiled = keras.layers.Lambda(
        lambda x: gumbel_noise(x[:, 0], x[:, 1], 100), output_shape=(100,)
    )
    model = keras.Sequential([keras.Input((2,), dtype="int32"), compiled])
    model.compile(jit_compile=keras.config.backend() != "torch")
    keys = np.array([[7, 3], [9, 4]], "int32")
    whole = model.predict(keys, verbose=0)
    np.testing.assert_allclose(whole, reference(keys[:, 0], keys[:, 1], 100), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", ["seeds", "positions", "tokens"])
def test_noise_has_the_distribution_of_gumbel(which):
    stats = pytest.importorskip("scipy.stats")
    many, one = np.arange(20_000), np.zeros(20_000, int)
    noise = {
        "seeds": lambda: drawn(many, one, 1)[:, 0],
        "positions": lambda: drawn(one, many, 1)[:, 0],
        "tokens": lambda: drawn([0], [0], 20_000)[0],
    }[which]()
    assert np.isfinite(noise).all()
    assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize(
    "left, right",
    [
        (([1], [5]), ([2], [5])),  # seeds side by side
        (([1], [5]), ([1], [6])),  # positions side by side
        (([5], [1]), ([1], [5])),  # the two exchanged
        (([0], [0]), ([2**30], [0])),
    ],
)
def test_rows_know_nothing_of_each_other(left, right):
    a, b = drawn(*left, 50_000)[0], drawn(*right, 50_000)[0]
    for shift in (0, 1, 2):
        correlation = np.corrcoef(a, np.roll(b, shift))[0, 1]
        assert abs(correlation) < 4 / np.sqrt(50_000)
    # Nor are they each other's numbers in another order; some 150 of the 2**24 floats meet.
    assert np.intersect1d(a, b).size < 400


def test_neighbours_in_a_row_know_nothing_of_each_other():
    noise = drawn([3], [9], 100_000)[0]
    for lag in (1, 2, 3, 16, 256, 4096):
        assert abs(np.corrcoef(noise[:-lag], noise[lag:])[0, 1]) < 4 / np.sqrt(100_000)


def test_a_vocabulary_of_gemma_has_no_ties_at_the_top():
    top = np.sort(drawn(np.arange(20), np.zeros(20, int), 256_000))[:, -2:]
    assert (top[:, 1] > top[:, 0]).all()


def test_the_first_row_has_the_seed_and_the_others_their_own():
    seeds = row_seeds(11, 1000)
    assert seeds[0] == 11
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seeds[:3] == row_seeds(11, 3)
    assert row_seeds(5, 0) == []
    assert not set(seeds) & set(row_seeds(12, 1000))
