"""Numbers rounded by chance have no bias, and lie on either side of what was rounded."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from keras_gemma.optimizers import AdamW
from keras_gemma.optimizers.rounding import round_by_chance


def rounded(x, seed=0, counter=0):
    places = ops.arange(x.size, dtype="int32")
    out = round_by_chance(ops.convert_to_tensor(x), seed, counter, places)
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16"
    return ops.convert_to_numpy(ops.cast(out, "float32"))


def test_a_number_becomes_one_of_its_two_neighbours():
    x = np.random.default_rng(0).normal(0, 1, 10_000).astype("float32")
    bits = x.view("uint32")
    toward_zero = (bits & 0xFFFF0000).view("float32")
    away = ((bits & 0xFFFF0000) + 0x10000).view("float32")
    got = rounded(x)
    assert ((got == toward_zero) | (got == away)).all()
    assert (got == toward_zero).any()
    assert (got == away).any()


def test_the_mean_of_many_draws_is_the_number():
    x = np.random.default_rng(0).normal(0, 1, 2_000).astype("float32")
    draws = np.stack([rounded(x, counter=step) for step in range(64)])
    spacing = np.abs((x.view("uint32") & 0xFFFF0000).view("float32")) * 2.0**-7
    # Of one draw, the error is at most a spacing wide and at most half of one as standard deviation.
    errors = (draws.mean(0) - x) / spacing
    assert np.abs(errors).max() < 5 * 0.5 / np.sqrt(64)
    assert abs(errors.mean()) < 5 * 0.5 / np.sqrt(64 * x.size)


def test_what_bfloat16_has_stays_and_so_does_what_is_no_number():
    x = np.array([0, -0.0, 1.5, -3e38, 1e-30, np.inf, -np.inf]).astype(ml_dtypes.bfloat16)
    x = x.astype("float32")
    np.testing.assert_array_equal(rounded(x), x)
    nan = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], "uint32").view("float32")
    assert np.isnan(rounded(nan)).all()


def test_draws_depend_on_seed_and_step_and_on_nothing_else():
    x = np.full(1000, 1 + 2.0**-8, "float32")
    assert (rounded(x) == rounded(x)).all()
    for other in (rounded(x, seed=1), rounded(x, counter=1)):
        assert 0.4 < (rounded(x) == other).mean() < 0.6  # as coins agree


def steps_of(dtype, count=200, **options):
    """A weight of 1 in each of 4,000 places, after steps of a thousandth each towards 0."""
    variable = keras.Variable(np.ones((40, 100), "float32"), dtype=dtype)
    optimizer = AdamW(1e-4, weight_decay=0.0, **options)
    gradient = ops.ones((40, 100), "float32")
    for _ in range(count):
        optimizer.apply([gradient], [variable])
    return ops.convert_to_numpy(ops.cast(variable.value, "float32"))


def test_steps_too_small_for_bfloat16_add_up():
    exact = steps_of("float32", 40).mean()  # 1 less 40 steps of 1e-4, of which each is 1/39 spacing
    assert steps_of("bfloat16", 40).mean() == pytest.approx(exact, abs=3e-4)
    assert (steps_of("bfloat16", 40, stochastic_rounding=False) == 1).all()


def test_a_state_in_bfloat16_follows_one_in_float32():
    def trained(**options):
        rng = np.random.default_rng(3)
        variable = keras.Variable(np.zeros((20, 30), "float32"))
        optimizer = AdamW(1e-2, weight_decay=0.0, **options)
        for _ in range(60):
            gradient = rng.normal(0.3, 1, (20, 30)).astype("float32")
            optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        slots = [*optimizer._momentums, *optimizer._velocities]
        return [ops.convert_to_numpy(ops.cast(v.value, "float32")) for v in (variable, *slots)]

    exact, low = trained(), trained(state_dtype="bfloat16")
    # A mean of squares grows by a thousandth a step, which nearest rounding would lose.
    assert low[2].mean() == pytest.approx(exact[2].mean(), rel=0.01)
    assert np.abs(low[0] - exact[0]).mean() < 0.02 * np.abs(exact[0]).mean()


def test_a_state_in_bfloat16_takes_half_the_bytes():
    variable = keras.Variable(np.zeros((64, 32), "float32"))
    optimizer = AdamW(1e-2, state_dtype="bfloat16")
    optimizer.build([variable])
    assert [v.dtype for v in optimizer.variables[2:]] == ["bfloat16"] * 2


def test_an_unknown_dtype_of_the_state_is_named():
    with pytest.raises(ValueError, match="state_dtype must be one of float32, bfloat16"):
        AdamW(state_dtype="float16")
