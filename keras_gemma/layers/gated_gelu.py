"""GELU times a value, of which training keeps no more than the two it is made of."""

import math

import keras
from keras import ops

_FACTOR, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def gated_gelu(gate, value, training: bool = False):
    """`gelu(gate) * value`, elementwise, with the tanh form of GELU (arXiv 1606.08415).

    Left to itself, a backend that trains keeps up to three more arrays of that size for the gradient. To compute them
    again takes no longer than to write and read them.

    >>> gate, value = keras.ops.array([0.0, 1.0]), keras.ops.array([5.0, 2.0])
    >>> gated_gelu(gate, value).shape == (2,)
    True
    """
    if not training:
        return _product(gate, value)
    if keras.backend.backend() == "torch":
        from keras_gemma.layers.torch_gradients import GatedGelu

        return GatedGelu.apply(gate, value)

    @ops.custom_gradient
    def product(gate, value):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            # What depends on the gate alone XLA would compute, and keep, long before it is needed.
            gelu, slope = _gelu_and_slope(gate + 0 * upstream)
            return upstream * value * slope, upstream * gelu

        return _product(gate, value), gradient

    return product(gate, value)


def _product(gate, value):
    return keras.activations.gelu(gate, approximate=True) * value


def _gelu_and_slope(x):
    """By an exponential, of which tanh is another form: XLA would keep the tanh of before if it were asked for again."""
    square = ops.square(x)
    share = 1 / (1 + ops.exp(-2 * _FACTOR * x * (1 + _CUBIC * square)))
    bend = 2 * _FACTOR * x * (1 + 3 * _CUBIC * square)
    return x * share, share + share * (1 - share) * bend
