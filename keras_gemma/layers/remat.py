"""Rematerialization (arXiv 1604.06174): memory for time, in a model that also drops."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_gemma.arrays import device_kind
from keras_gemma.compilers import not_before


def rematerialized(function: Callable, layer: keras.Layer) -> Callable:
    """`function`, one of `layer`, of one array: for its gradient the array alone is kept, and the rest computed again.

    What dropout layers of `layer` drop is dropped again the second time.
    """
    generators = (part._seed_generators for part in layer._flatten_layers())
    states = [generator.state for some in generators for generator in some]

    def run(x):
        before, after = ([state + _draws(count) for state in states] for count in (0, 1))

        def from_here(x, *places):
            for state, place in zip(states, places):
                state.assign(place)
            return function(x)

        y = _computed_again(from_here, x, *before)
        for state, value in zip(states, after):
            state.assign(value)
        return y

    return run


def _computed_again(function, *arrays):
    """`keras.remat(function)(*arrays)`, where that does what it says."""
    name = keras.backend.backend()
    if name == "jax" and device_kind() == "cpu":
        return _after_gradient(function, *arrays)
    if name == "torch":
        from torch.utils.checkpoint import set_checkpoint_early_stop

        # PyTorch ends the second time by an exception. Keras adds words to it at each layer that it passes, which
        # takes time, and leaves cycles of references: what was computed again would live until Python finds those.
        with set_checkpoint_early_stop(False):
            return keras.remat(function)(*arrays)
    return keras.remat(function)(*arrays)


def _after_gradient(function, x, *seeds):
    """XLA on CPUs finds that `jax.checkpoint` computes the same twice, and keeps it all: here the second time waits for the gradient."""
    import jax

    # The weights that `function` knows get gradients if they are told apart.
    converted, weights = jax.closure_convert(function, x, *seeds)

    @jax.custom_vjp
    def once(x, *weights):
        return converted(x, *seeds, *weights)

    def forward(x, *weights):
        return once(x, *weights), (x, weights)

    def backward(kept, gradient):
        x, *late = (not_before(gradient, array) for array in (kept[0], *seeds))
        again = lambda x, *weights: converted(x, *late, *weights)
        return jax.vjp(again, x, *kept[1])[1](gradient)

    once.defvjp(forward, backward)
    return once(x, *weights)


def _draws(count):
    """What as many draws add to the state of a `keras.random.SeedGenerator`."""
    return ops.convert_to_tensor(np.array([0, count], "uint32"), "uint32")
