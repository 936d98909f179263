"""Rotary positions, against the definition in complex numbers."""

import keras
import numpy as np
import pytest
from conftest import close
from keras import ops

from keras_gemma.layers import rotate


def by_complex_numbers(x, index, base, scaling):
    half = x.shape[-1] // 2
    speeds = base ** -(np.arange(half) / half)
    turn = np.exp(1j * (index / scaling)[:, :, None, None] * speeds)
    turned = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([turned.real, turned.imag], axis=-1)


def test_pairs_turn_by_their_angle():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 5, 3, 8)).astype("float32")
    index = random.integers(0, 50, (2, 5)).astype("int32")
    got = rotate(ops.array(x), ops.array(index), 10_000.0, 4.0)
    close(got, by_complex_numbers(x, index, 10_000.0, 4.0), 1e-5)


def test_scores_depend_on_distance_alone():
    random = np.random.default_rng(1)
    q, k = (ops.array(random.normal(size=(1, 1, 1, 16)).astype("float32")) for _ in range(2))

    def score(place_q, place_k):
        q_, k_ = rotate(q, ops.array([[place_q]])), rotate(k, ops.array([[place_k]]))
        return float(ops.sum(q_ * k_))

    assert abs(score(7, 3) - score(1007, 1003)) < 1e-3


def test_bfloat16_activations_keep_far_positions_apart():
    x = ops.ones((1, 2, 1, 4), "bfloat16")
    turned = ops.convert_to_numpy(ops.cast(rotate(x, ops.array([[8190, 8191]])), "float32"))
    assert np.abs(turned[0, 0] - turned[0, 1]).max() > 0.1


@pytest.mark.skipif(keras.config.backend() != "jax", reason="asks XLA what it compiled")
def test_heads_share_the_cosines_of_a_token():
    import jax

    x, index = ops.ones((1, 64, 4, 256)), ops.arange(64)[None]
    program = jax.jit(rotate).lower(x, index).compile().as_text()
    assert program.count("cosine(") == program.count("sine(") - program.count("cosine(") == 1
