"""A gated GELU is the formula, and so is its gradient, of which little is kept."""

import math

import keras
import numpy as np
import pytest
from conftest import close
from gradients import gradients_of
from keras import ops

from keras_gemma.layers.gated_gelu import gated_gelu

RANDOM = np.random.default_rng(0)
GATE, VALUE, UP = (RANDOM.normal(0, 4, (3, 5, 7)).astype("float32") for _ in range(3))
# Where a float32 exponential overflows, and where nothing bends.
GATE[0, 0, :4] = [-15, 0, 1e-6, 15]


def plain(gate, value):
    return keras.activations.gelu(gate, approximate=True) * value


def test_value_and_gradient_are_those_of_the_formula():
    """In float64, by a sigmoid; XLA's own tanh is 4e-6 off where it isn't let fuse."""
    value, gradients = gradients_of(
        lambda *x: ops.sum(ops.multiply(UP, gated_gelu(*x, training=True))), GATE, VALUE
    )
    x, factor = GATE.astype("float64"), math.sqrt(2 / math.pi)
    share = 1 / (1 + np.exp(-2 * factor * (x + 0.044715 * x**3)))
    slope = share + x * share * (1 - share) * 2 * factor * (1 + 3 * 0.044715 * x**2)
    close(value, np.sum(UP * x * share * VALUE), 2e-6)
    close(gradients[0], UP * VALUE * slope, 2e-6)
    close(gradients[1], UP * x * share, 2e-6)


def test_outside_of_training_it_is_the_formula():
    arrays = ops.convert_to_tensor(GATE), ops.convert_to_tensor(VALUE)
    close(gated_gelu(*arrays), plain(*arrays), 0)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch says what it keeps")
def test_gate_and_value_are_all_that_is_kept():
    import torch

    kept = []
    arrays = [torch.tensor(x, requires_grad=True) for x in (GATE, VALUE)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        gated_gelu(*arrays, training=True)
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in arrays}
