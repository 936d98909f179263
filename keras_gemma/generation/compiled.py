"""Functions made fast on each backend: the only file here that knows which backend runs.

A `Compiler` is given the variables that functions read (`weights`) and those they may change
(`states`, a sampler's random seeds), and offers three things:

`program(function)`  the function, compiled as a whole where the backend can;
`loop(while_true, step, state)`  a loop inside a program;
`step(function)`  a function called again and again with the same shapes inside such a loop.
"""

import functools
from collections.abc import Callable

import keras
from keras import ops


class Compiler:
    """Plain calls: what is left when a user asks Keras to run eagerly."""

    def __init__(self, weights, states=()):
        self.weights, self.states = tuple(weights), tuple(states)

    def program(self, function: Callable) -> Callable:
        return function

    def step(self, function: Callable) -> Callable:
        return function

    def loop(self, while_true: Callable, step: Callable, state):
        while bool(while_true(state)):
            state = step(state)
        return state


class JaxCompiler(Compiler):
    """`jax.jit` over values: weights are arguments, so that a new value needs no new program."""

    def program(self, function):
        import jax

        # The first argument is the state of a generation; its caches are written in place.
        @functools.partial(jax.jit, donate_argnums=2)
        def run(weights, states, state, *rest):
            mapping = [*zip(self.weights, weights), *zip(self.states, states)]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                result = function(state, *rest)
            return result, [scope.get_current_value(v) for v in self.states]

        def call(*arguments):
            result, states = run(
                [v.value for v in self.weights], [v.value for v in self.states], *arguments
            )
            for variable, value in zip(self.states, states):
                variable.assign(value)
            return result

        return call

    def loop(self, while_true, step, state):
        import jax

        weights = [(v, v.value) for v in self.weights]

        def body(carry):
            states, state = carry
            mapping = [*weights, *zip(self.states, states)]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                state = step(state)
            return [scope.get_current_value(v) for v in self.states], state

        start = [ops.convert_to_tensor(v.value) for v in self.states], state
        states, state = jax.lax.while_loop(lambda carry: while_true(carry[1]), body, start)
        for variable, value in zip(self.states, states):
            variable.assign(value)
        return state


class TensorFlowCompiler(Compiler):
    """One XLA program with the loop inside; without XLA the same loop is nine times slower."""

    def program(self, function):
        import tensorflow as tf

        return tf.function(function, jit_compile=True)

    def loop(self, while_true, step, state):
        return ops.while_loop(while_true, lambda state: (step(state),), (state,))[0]


class TorchCompiler(Compiler):
    """Eager programs whose step is a graph of plain tensor operations.

    A Keras layer costs some 50 microseconds a call, far more than a small product. The step is
    traced once per shape through the very layers of the model, and runs without them after.
    Weights are captured by reference: new values are seen, new tensors need a new compiler.
    """

    def program(self, function):
        import torch

        return torch.inference_mode()(function)

    def step(self, function):
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.utils import _pytree as pytree

        graphs = {}

        def call(*arguments):
            leaves, _ = pytree.tree_flatten(arguments)
            shapes = tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves)
            if shapes not in graphs:
                # A plain function: the tracer counts a method's self among its arguments.
                graphs[shapes] = make_fx(lambda *arguments: function(*arguments))(*arguments)
            return graphs[shapes](*arguments)

        return call


_COMPILERS = {
    "jax": JaxCompiler,
    "tensorflow": TensorFlowCompiler,
    "torch": TorchCompiler,
}


def compiler(weights, states=(), eager: bool = False) -> Compiler:
    """The compiler of the running backend."""
    kind = Compiler if eager else _COMPILERS.get(keras.config.backend(), Compiler)
    return kind(weights, states)
