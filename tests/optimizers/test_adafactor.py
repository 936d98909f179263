"""Adafactor steps as Keras's own does in float32, with far less to remember."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_gemma.optimizers import Adafactor

SHAPES = [(6, 5), (7,), (2, 4, 3)]


def weights(dtype="float32"):
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(0, 1, s).astype("float32"), dtype=dtype) for s in SHAPES]


def trained(optimizer, dtype="float32", steps=8):
    variables, rng = weights(dtype), np.random.default_rng(1)
    for _ in range(steps):
        gradients = [rng.normal(0, 1, s).astype("float32") for s in SHAPES]
        optimizer.apply([ops.convert_to_tensor(g, dtype) for g in gradients], variables)
    return [ops.convert_to_numpy(ops.cast(v.value, "float32")) for v in variables]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"clip_threshold": 0.1}])
def test_steps_are_those_of_keras(options):
    expected = trained(keras.optimizers.Adafactor(0.1, **options))
    for got, awaited in zip(trained(Adafactor(0.1, **options)), expected, strict=True):
        np.testing.assert_allclose(got, awaited, atol=2e-6)


def test_bfloat16_weights_move_as_float32_ones_do():
    start = [ops.convert_to_numpy(v.value) for v in weights()]
    low, high = trained(Adafactor(0.1), "bfloat16"), trained(Adafactor(0.1))
    for got, awaited, first in zip(low, high, start, strict=True):
        assert np.corrcoef((got - first).ravel(), (awaited - first).ravel())[0, 1] > 0.9


def test_of_a_matrix_rows_and_columns_are_remembered_in_float32():
    optimizer = Adafactor(0.1)
    optimizer.build(weights("bfloat16"))
    slots = [
        v for v in optimizer.variables[2:] if tuple(v.shape)
    ]  # Keras counts vectors' missing ones
    assert {v.dtype for v in slots} == {"float32"}
    assert [tuple(v.shape) for v in slots] == [(6,), (5,), (7,), (2, 4), (2, 3)]


def test_configuration_goes_there_and_back():
    made = Adafactor(0.1, schedule="cosine", warmup=0.1, beta_2_decay=-0.7)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert isinstance(again, Adafactor)
    assert again.get_config() == made.get_config()


def test_accumulated_gradients_equal_one_step_on_their_mean():
    got, expected = weights()[:1], weights()[:1]
    pair = [np.random.default_rng(k).normal(0, 1, SHAPES[0]).astype("float32") for k in (1, 2)]
    cut, whole = Adafactor(0.1, gradient_accumulation_steps=2), Adafactor(0.1)
    for gradient in pair:
        cut.apply([ops.convert_to_tensor(gradient)], got)
    whole.apply([ops.convert_to_tensor((pair[0] + pair[1]) / 2)], expected)
    np.testing.assert_allclose(
        ops.convert_to_numpy(got[0].value), ops.convert_to_numpy(expected[0].value), atol=2e-6
    )
