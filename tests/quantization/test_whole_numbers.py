"""A matrix rounded is as near as its steps allow, and its scales are kept exactly."""

import numpy as np
import pytest

from keras_gemma.quantization import rounded

pytestmark = pytest.mark.once
STEPS = {"int8": 127, "int4": 8}


def weights(outputs=9, inputs=70):
    random = np.random.default_rng(3)
    made = random.normal(size=(outputs, inputs)).astype("float32")
    made[2], made[3, :32], made[4, 5] = 0, 0, 1e4  # no number at all, a block of none, one far out
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("block", [None, 32, 70, 128])
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_no_number_is_further_than_half_a_step(mode, block, dtype):
    matrix = weights()
    whole = rounded(matrix, mode, block, dtype)
    low, high = (-127, 127) if mode == "int8" else (-8, 7)
    assert whole.values.dtype == "int8" and low <= whole.values.min() <= whole.values.max() <= high
    assert (whole.scales == whole.scales.astype(dtype).astype("float32")).all() or block is None
    size = block or 70
    step = np.repeat(np.abs(whole.scales), size, axis=1)[:, :70]
    off = np.abs(whole.floats() - matrix)
    # The side of 4 bits that ends at 7 is cut where a number comes near the largest.
    cut = whole.values == high
    assert (off <= step * np.where(cut & (mode == "int4"), 1.0, 0.5001)).all()
    assert not whole.floats()[2].any() and not whole.floats()[3, :32].any()


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_scale_is_the_largest_number_over_the_steps(mode):
    matrix = weights()
    whole = rounded(matrix, mode)
    expected = np.abs(matrix).max(axis=1) / STEPS[mode]
    np.testing.assert_allclose(np.abs(whole.scales[:, 0]), expected, rtol=1e-6)


def test_many_rows_are_rounded_as_few(monkeypatch):
    matrix = weights()
    at_once = rounded(matrix, "int4", 32)
    monkeypatch.setattr("keras_gemma.quantization.whole_numbers._ROWS", 2)
    by_parts = rounded(matrix, "int4", 32)
    assert (at_once.values == by_parts.values).all() and (at_once.scales == by_parts.scales).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_told(bad):
    matrix = weights()
    matrix[1, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        rounded(matrix, "int8")
