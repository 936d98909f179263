"""However an update is cut into pieces, and whoever computes it, the numbers are the same."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_gemma.optimizers import AdamW, AdamW8bit, in_place

SHAPE = 35, 256  # no multiple of the pieces below


def trained(make, dtype="float32", steps=3):
    rng = np.random.default_rng(0)
    variable = keras.Variable(rng.normal(0, 1, SHAPE).astype("float32"), dtype=dtype)
    optimizer = make(1e-2, global_clipnorm=1.0)
    for _ in range(steps):
        gradient = rng.normal(0, 1, SHAPE).astype("float32")
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
    kept = [v for v in optimizer.variables if tuple(v.shape)]
    return [ops.convert_to_numpy(ops.cast(v.value, "float32")) for v in (variable, *kept)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [AdamW, AdamW8bit])
def test_an_update_in_pieces_is_that_of_the_whole(make, dtype, monkeypatch):
    whole = trained(make, dtype)
    for size in ("_PIECE", "_KERNEL_PIECE", "_XLA_PIECE"):
        monkeypatch.setattr(in_place, size, 8 * 256)
    for got, expected in zip(trained(make, dtype), whole, strict=True):
        # Codes may differ by one where a last bit does; which noise each number is given, not at all.
        assert (np.abs(got - expected) > 2e-6 * np.abs(expected)).mean() < 1e-3


def test_a_kernel_does_what_the_formula_does(monkeypatch):
    by_kernel = trained(AdamW, steps=10)
    monkeypatch.setattr(in_place, "adamw", lambda *_: False)
    for got, expected in zip(by_kernel, trained(AdamW, steps=10), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [AdamW, AdamW8bit])
def test_gradients_may_lie_in_memory_in_any_order(make):
    value = np.random.default_rng(0).normal(0, 1, SHAPE).astype("float32")
    across = ops.transpose(ops.convert_to_tensor(np.ascontiguousarray(value.T)))
    moved = []
    for gradient in (across, ops.convert_to_tensor(value)):
        variable = keras.Variable(np.zeros(SHAPE, "float32"))
        make(1e-2, epsilon=1.0).apply([gradient], [variable])
        moved.append(ops.convert_to_numpy(variable.value))
    np.testing.assert_array_equal(*moved)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_squares_are_summed_in_float32(dtype):
    x = np.random.default_rng(0).integers(-8, 9, (300, 200)).astype("float32")
    got = in_place.sum_of_squares(ops.convert_to_tensor(x, dtype))
    assert float(got) == pytest.approx(float(np.square(x, dtype="float64").sum()), rel=1e-5)
