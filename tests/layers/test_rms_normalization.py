"""Normalization as it is trained: the formula's numbers and gradients, in float32 whatever comes in."""

import keras
import numpy as np
import pytest
from conftest import close
from gradients import gradients_of
from keras import ops

from keras_gemma.layers.rms_normalization import RMSNormalization, normalize

RANDOM = np.random.default_rng(0)
X, UP = (RANDOM.normal(0, 3, (2, 5, 24)).astype("float32") for _ in range(2))
SCALE = RANDOM.normal(0, 0.5, 24).astype("float32")


def test_numbers_and_gradients_are_those_of_the_formula():
    def formula(x, scale):
        y = x / ops.sqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-3) * (1 + scale)
        return ops.sum(ops.multiply(UP, y))

    def ours(x, scale):
        return ops.sum(ops.multiply(UP, normalize(x, scale, 1e-3, "float32")))

    got, gradients = gradients_of(ours, X, SCALE)
    expected, awaited = gradients_of(formula, X, SCALE)
    close(got, expected, 1e-6)
    for gradient, other in zip(gradients, awaited):
        close(gradient, other, 2e-6)


def test_low_precision_is_rounded_once_at_the_end():
    low = ops.cast(X, "bfloat16")
    made = normalize(low, ops.convert_to_tensor(SCALE), 1e-6, "bfloat16")
    wide = normalize(ops.cast(low, "float32"), SCALE, 1e-6, "float32")
    assert (ops.convert_to_numpy(made == ops.cast(wide, "bfloat16"))).all()


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of PyTorch's own gradient")
def test_pytorch_goes_through_it_in_all_its_ways():
    import torch

    def of(x, scale):
        return normalize(x, scale, 1e-3, "float32")

    x, scale = (torch.tensor(array, dtype=torch.float64) for array in (X[0], SCALE))
    x, scale = x.float().requires_grad_(), scale.float().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        of(x, scale)
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), scale.data_ptr()}
    # A gradient of a gradient, and one for each example.
    (slope,) = torch.autograd.grad(of(x, scale).square().sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    moved, step = [], 1e-2
    for sign in (1, -1):
        there = (x.detach() + sign * step).requires_grad_()
        moved.append(torch.autograd.grad(of(there, scale).square().sum(), there)[0])
    close(bend.sum(), (moved[0] - moved[1]).sum() / (2 * step), 2e-2)
    each = torch.func.vmap(torch.func.grad(lambda row: of(row, scale.detach()).square().sum()))
    close(each(x.detach()), slope, 1e-5)


def test_a_layer_is_the_formula():
    layer = RMSNormalization()
    layer.build(X.shape)
    layer.scale.assign(SCALE)
    rms = np.sqrt((X.astype("float64") ** 2).mean(-1, keepdims=True) + 1e-6)
    close(layer(X), X / rms * (1 + SCALE), 1e-6)
