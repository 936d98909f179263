"""Micro-batches weighed by their tokens in Keras's own optimizers, which count them alike."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_gemma.optimizers import in_place


def add_sum_of_weights(optimizer: keras.optimizers.Optimizer) -> None:
    """Give an optimizer that accumulates gradients what it takes to weigh them.

    It is part of the optimizer's state, as a run that is saved between two micro-batches has summed up some. Adding it
    again changes nothing.
    """
    if not optimizer.gradient_accumulation_steps or can_weigh(optimizer):
        return
    optimizer._sum_of_weights = optimizer.add_variable((), dtype="float32", name="sum_of_weights")
    # State is saved in its order: one that is built has this where one to be built would.
    known = 1 + isinstance(optimizer._learning_rate, keras.Variable)  # 1 for the iterations
    optimizer._variables.insert(known, optimizer._variables.pop())


def can_weigh(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether `add_sum_of_weights` was called."""
    return hasattr(optimizer, "_sum_of_weights")


@contextlib.contextmanager
def weighed(optimizer: keras.optimizers.Optimizer, weight: Any) -> Iterator[None]:
    """While a micro-batch's gradients, which weigh a scalar, are applied."""
    apply = optimizer._backend_apply_gradients  # adds them up, and divides by the number of batches
    optimizer._backend_apply_gradients = lambda grads, variables: apply(
        _as_added(optimizer, grads, variables, ops.cast(weight, "float32")), variables
    )
    try:
        yield
    finally:
        del optimizer._backend_apply_gradients


def _as_added(optimizer, grads, variables, weight):
    """The gradients as Keras must add them, so that what it divides comes to a weighed mean."""
    steps = optimizer.gradient_accumulation_steps
    place = optimizer._iterations % steps
    is_last = place == steps - 1
    whole = ops.where(place == 0, 0.0, ops.convert_to_tensor(optimizer._sum_of_weights)) + weight
    optimizer._sum_of_weights.assign(whole)
    scale = ops.where(whole > 0, steps / ops.where(whole > 0, whole, 1.0), 0.0)
    sums = [optimizer._accumulated_gradients[optimizer._get_variable_index(v)] for v in variables]

    def scale_sums():
        for sum_ in sums:
            total = ops.convert_to_tensor(sum_)
            sum_.assign(total * ops.cast(scale, total.dtype))

    in_place.only_if(is_last, scale_sums, sums)
    factor = weight * ops.where(is_last, scale, 1.0)
    # Dense: TensorFlow hands over the gradient of a lookup as slices. What weighs nothing may be NaN.
    grads = [ops.convert_to_tensor(g) for g in grads]
    return [ops.where(weight > 0, g * ops.cast(factor, g.dtype), 0) for g in grads]
