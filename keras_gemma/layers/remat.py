"""Rematerialization (arXiv 1604.06174): memory for time, in a model that also drops."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops


def rematerialized(function: Callable, layer: keras.Layer) -> Callable:
    """`function`, one of `layer`, of one array: for its gradient the array alone is kept, and the rest computed again.

    What dropout layers of `layer` drop is dropped again the second time.
    """
    generators = (part._seed_generators for part in layer._flatten_layers())
    states = [generator.state for some in generators for generator in some]

    def run(x):
        before, after = ([state + _draws(count) for state in states] for count in (0, 1))

        def from_here(x):
            for state, value in zip(states, before):
                state.assign(value)
            return function(x)

        y = keras.remat(from_here)(x)
        for state, value in zip(states, after):
            state.assign(value)
        return y

    return run


def _draws(count):
    """What as many draws add to the state of a `keras.random.SeedGenerator`."""
    return ops.convert_to_tensor(np.array([0, count], "uint32"), "uint32")
