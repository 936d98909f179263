"""A state of 8 bits says what one of 32 does, within a level, without a bias."""

import keras
import numpy as np
import pytest
from conftest import once_but
from keras import ops

from keras_gemma.optimizers import AdamW, AdamW8bit
from keras_gemma.optimizers.eight_bits import BLOCK, MEANS, SQUARES


def blocks(code):
    """Numbers over six decades, of either sign where the code has signs; a block of zeros."""
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-14, 0, (8, BLOCK))) * (rng.choice([-1, 1], (8, BLOCK)))
    x[3] = 0
    return (x if code is MEANS else np.abs(x)).astype("float32")


def coded(code, x, uniform):
    codes, scale = code.encode(ops.convert_to_tensor(x), ops.convert_to_tensor(uniform))
    assert keras.backend.standardize_dtype(codes.dtype) == code.dtype
    return ops.convert_to_numpy(code.decode(codes, scale))


def spacing(code, x):
    """Between the two levels around each number, in NumPy's float64."""
    share = np.abs(x) / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-30)
    low = np.minimum(
        np.floor(share.astype("float64") ** (1 / code.power) * code.levels), code.levels - 1
    )
    levels = ((low + k) / code.levels for k in (0, 1))
    low, high = (level**code.power for level in levels)
    return (high - low) * np.abs(x).max(-1, keepdims=True)


@pytest.mark.parametrize("code", [MEANS, SQUARES], ids=["means", "squares"])
def test_a_code_is_within_a_level_and_the_nearest_one_within_half(code):
    x, rng = blocks(code), np.random.default_rng(1)
    by_chance = coded(code, x, rng.uniform(0, 1, x.shape).astype("float32"))
    nearest = coded(code, x, np.full(x.shape, 0.5, "float32"))
    # 1e-5 of a level for where float32 takes a root of what lies on one.
    assert (np.abs(by_chance - x) <= spacing(code, x) * (1 + 1e-5) + 1e-7 * np.abs(x)).all()
    assert (np.abs(nearest - x) <= spacing(code, x) * (0.5 + 1e-5) + 1e-7 * np.abs(x)).all()
    assert (nearest[3] == 0).all()
    largest = np.abs(x).argmax(-1)[..., None]
    for got in (by_chance, nearest):
        np.testing.assert_allclose(
            np.take_along_axis(got, largest, -1), np.take_along_axis(x, largest, -1), rtol=1e-6
        )


@pytest.mark.parametrize("code", [MEANS, SQUARES], ids=["means", "squares"])
def test_the_mean_of_many_codes_is_the_number(code):
    x, rng = blocks(code), np.random.default_rng(1)
    draws = [coded(code, x, rng.uniform(0, 1, x.shape).astype("float32")) for _ in range(64)]
    error = (np.mean(draws, axis=0) - x) / np.maximum(spacing(code, x), 1e-30)
    assert np.abs(error).max() < 5 * 0.5 / np.sqrt(64)
    assert abs(error.mean()) < 5 * 0.5 / np.sqrt(64 * x.size)


def test_the_state_takes_two_bytes_a_weight_and_eight_a_block():
    matrix, norm, odd = (
        keras.Variable(np.zeros(s, "float32")) for s in [(128, 64), (64,), (99, 77)]
    )
    optimizer = AdamW8bit(1e-3)
    optimizer.build([matrix, norm, odd])
    width = {"int8": 1, "uint8": 1, "float32": 4}
    slots = [np.prod(v.shape) * width[v.dtype] for v in optimizer.variables[2:]]
    size = 128 * 64
    assert sum(slots[:4]) == 2 * size + 8 * size // BLOCK == 2.03125 * size
    assert slots[4:] == [4 * 64] * 2 + [4 * 99 * 77] * 2


def network(optimizer, dtype="float32"):
    layers = [
        keras.layers.Dense(width, activation, dtype=dtype, kernel_initializer=start)
        for width, activation, start in (
            (128, "gelu", keras.initializers.GlorotUniform(1)),
            (64, None, keras.initializers.GlorotUniform(2)),
        )
    ]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.compile(optimizer, "mse")
    return model


def losses(optimizer, dtype="float32"):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (256, 64)).astype("float32")
    y = np.tanh(x @ rng.normal(0, 0.2, (64, 64)).astype("float32"))
    model = network(optimizer, dtype)
    return model.fit(x, y, 32, 12, verbose=0, shuffle=False).history["loss"], model


@pytest.mark.parametrize("dtype", once_but(["float32", "bfloat16"], "bfloat16"))
def test_the_loss_follows_that_of_adamw(dtype):
    (exact, _), (coded, model) = losses(AdamW(3e-3), dtype), losses(AdamW8bit(3e-3), dtype)
    assert exact[-1] < 0.2 * exact[0]
    # Seen: 0.05 %, and 0.15 % where weights are rounded by chance, too. Rounded to the nearest level
    # it would be 0.4 %, and growing.
    np.testing.assert_allclose(coded, exact, rtol=0.002 if dtype == "float32" else 0.005)
    assert sum(v.dtype in ("int8", "uint8") for v in model.optimizer.variables) == 4


def test_a_weight_whose_gradients_nearly_vanish_does_not_leap():
    # A mean of squares that is a billionth of its block's largest is rounded to 0 now and then.
    variable = keras.Variable(np.zeros((16, BLOCK), "float32"))
    optimizer = AdamW8bit(1e-3, weight_decay=0.0)
    scale = np.where(np.arange(BLOCK) == 0, 1.0, 2e-5) * np.ones((16, 1))
    rng, seen = np.random.default_rng(0), [np.zeros((16, BLOCK))]
    for _ in range(60):
        gradient = (scale * rng.normal(0, 1, (16, BLOCK))).astype("float32")
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        seen.append(np.array(ops.convert_to_numpy(variable.value)))
    # Adam's own bound for these betas, times its corrections, which are at most 1 / (1 - 0.9).
    assert np.abs(np.diff(seen, axis=0))[10:].max() < 1e-3 * 7.3 * 1.5


def test_state_survives_save_and_load(tmp_path):
    _, model = losses(AdamW8bit(3e-3))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for ours, theirs in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(
            ops.convert_to_numpy(ours.value), ops.convert_to_numpy(theirs.value)
        )


def test_other_dtypes_of_the_state_are_not_offered():
    with pytest.raises(TypeError, match="state_dtype"):
        AdamW8bit(1e-3, state_dtype="bfloat16")
