"""The gradient of a function of arrays, asked of the running backend."""

import keras
import numpy as np


def gradients_of(function, *arrays):
    """The value of `function(*arrays)`, a scalar, and its gradients, as NumPy arrays."""
    value, gradients = {"jax": _jax, "torch": _torch, "tensorflow": _tensorflow}[
        keras.backend.backend()
    ](function, arrays)
    return np.asarray(value), [np.asarray(gradient) for gradient in gradients]


def _jax(function, arrays):
    import jax

    return jax.jit(jax.value_and_grad(function, argnums=tuple(range(len(arrays)))))(*arrays)


def _torch(function, arrays):
    import torch

    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = function(*tensors)
    return value.detach(), torch.autograd.grad(value, tensors)


def _tensorflow(function, arrays):
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        return value, tape.gradient(value, tensors)

    return run(*(tf.constant(array) for array in arrays))
