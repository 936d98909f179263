"""Functions made fast on each backend: the only file here that knows which backend runs.

A `Compiler` is given the variables that functions read (`weights`) and those they may change
(`states`, a sampler's random seeds), and offers three things:

`program(function)`  the function, compiled as a whole where the backend can; what its argument
                     number `donate` held, if one is named, is gone after a call;
`loop(while_true, step, state, given)`  a loop inside a program: `state = step(given, state)` again and
                     again; `whole` says that a step is of this package's operations alone, and
                     the same function each time, so that it can be taken for one operation;
`step(function)`  a function called again and again with the same shapes inside such a loop.

And it tells, of the running backend, whether variables changed (`marks`, `changed`), how it likes
its weights (`traits`), how parts of an array are written
(`write_rows`, `put_row`), and how a matrix is multiplied by (`product`).
"""

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gemma import arrays, compilers
from keras_gemma.generation.compilation_cache import keep_compiled
from keras_gemma.graphs import own_gradients


class Compiler:
    """Plain calls: what is left when a user asks Keras to run eagerly."""

    def __init__(self, weights, states=()):
        self.weights, self.states = tuple(weights), tuple(states)

    def program(self, function: Callable, donate: int | None = None) -> Callable:
        return function

    def step(self, function: Callable) -> Callable:
        return function

    def loop(self, while_true: Callable, step: Callable, state, given=(), whole: bool = False):
        while bool(while_true(state)):
            state = step(given, state)
        return state


class JaxCompiler(Compiler):
    """`jax.jit` over values: weights are arguments, so that a new value needs no new program."""

    def __init__(self, weights, states=()):
        super().__init__(weights, states)
        keep_compiled()
        arrays.give_back_after_compiling()

    def program(self, function, donate=None):
        import jax

        # What is donated is the state of a generation; its caches are written in place.
        @functools.partial(jax.jit, donate_argnums=() if donate is None else 2 + donate)
        def run(weights, states, *arguments):
            mapping = [*zip(self.weights, weights), *zip(self.states, states)]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                result = function(*arguments)
            return result, [scope.get_current_value(v) for v in self.states]

        def call(*arguments):
            result, states = run(
                [v.value for v in self.weights], [v.value for v in self.states], *arguments
            )
            for variable, value in zip(self.states, states):
                variable.assign(value)
            return result

        return call

    def loop(self, while_true, step, state, given=(), whole=False):
        import jax

        weights = [(v, v.value) for v in self.weights]

        def body(carry):
            states, state = carry
            mapping = [*weights, *zip(self.states, states)]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                state = step(given, state)
            return [scope.get_current_value(v) for v in self.states], state

        start = [ops.convert_to_tensor(v.value) for v in self.states], state
        states, state = jax.lax.while_loop(lambda carry: while_true(carry[1]), body, start)
        for variable, value in zip(self.states, states):
            variable.assign(value)
        return state


class TensorFlowCompiler(Compiler):
    """One XLA program with the loop inside; without XLA the same loop is nine times slower."""

    def program(self, function, donate=None):
        import tensorflow as tf

        def traced(*arguments, **options):
            with own_gradients():
                return function(*arguments, **options)

        # All that branches or repeats is an operation already.
        return tf.function(traced, jit_compile=True, autograph=False)

    def loop(self, while_true, step, state, given=(), whole=False):
        return ops.while_loop(while_true, lambda state: (step(given, state),), (state,))[0]


class TorchCompiler(Compiler):
    """Eager programs whose step is a graph of plain tensor operations."""

    def program(self, function, donate=None):
        import torch

        return torch.inference_mode()(function)

    def step(self, function):
        from torch.utils import _pytree as pytree

        from keras_gemma.generation.torch_step import traced

        graphs = {}

        def call(*arguments):
            if not compilers.can_branch():  # a step that holds this one is being written down
                return function(*arguments)
            leaves, _ = pytree.tree_flatten(arguments)
            shapes = tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves)
            if shapes not in graphs:
                weights = [variable.value for variable in (*self.weights, *self.states)]
                graphs[shapes] = traced(function, arguments, weights)
            return graphs[shapes](*arguments)

        return call

    def loop(self, while_true, step, state, given=(), whole=False):
        if whole and arrays.device_kind() == "gpu":
            return self._whole_loop(while_true, step, state, given)
        return super().loop(while_true, step, state, given)

    @functools.cached_property
    def _whole_loop(self):
        from keras_gemma.generation.cuda_loop import CudaLoop

        return CudaLoop((*self.weights, *self.states))


_COMPILERS = {
    "jax": JaxCompiler,
    "tensorflow": TensorFlowCompiler,
    "torch": TorchCompiler,
}


def compiler(weights, states=(), eager: bool = False) -> Compiler:
    """The compiler of the running backend."""
    kind = Compiler if eager else _COMPILERS.get(keras.config.backend(), Compiler)
    return kind(weights, states)


def written_once(function: Callable) -> Callable:
    """`function(form, *arrays)` of a layer, which a program calls for one layer after another.

    JAX traces and lowers a program once for each place where it calls something; of this one it
    does so for the first of the layers that are alike. `form` is what they share, no array: it can be hashed.
    """
    if keras.config.backend() != "jax":
        return function
    import jax

    # A function of its own: what JAX remembers of it goes with the program that is being written.
    return jax.jit(lambda *arguments: function(*arguments), static_argnums=0)


def product(x: Any, weights_KN: Any) -> Any:
    """`x` times a matrix, which may be a transposed view; there is no gradient of it."""
    if keras.config.backend() == "torch" and _onednn_is_faster(x, weights_KN):
        import torch

        # What PyTorch's own compiler calls. `matmul` asks MKL, which on processors of AMD reads half as fast.
        linear = torch.ops.mkldnn._linear_pointwise
        return linear(x.contiguous(), weights_KN.t(), None, "none", [], "")
    return ops.matmul(x, weights_KN)


def _onednn_is_faster(x, weights_KN):
    import torch

    if {x.dtype, weights_KN.dtype} != {torch.float32} or x.device.type != "cpu":
        return False
    one_row = x.numel() == x.shape[-1]
    collides = weights_KN.is_contiguous() and weights_KN.shape[1] % _COLLIDE == 0
    return not (one_row and collides) and _has_onednn()


def reads_outputs_first(weights_NK: Any) -> bool:
    """Whether one row is multiplied faster by this matrix if it has a row per output in memory.

    A question about float32 where `reads_inputs_first` is true, and to be answered for each matrix only on PyTorch.
    """
    if keras.config.backend() != "torch" or weights_NK.t().is_contiguous():
        return False
    return weights_NK.shape[0] % _COLLIDE == 0 and _has_onednn()


# Rows of so many float32, or of a multiple, fall on the same sets of a processor's cache: oneDNN reads a matrix with a
# row per input at 30 GB/s, and one with such rows at 12.
_COLLIDE = 512


@functools.cache
def _has_onednn():
    import torch

    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Traits(NamedTuple):
    """What weights should be like for the running backend."""

    widens_bfloat16: bool  # makes a float32 copy of a bfloat16 matrix for each product
    reads_inputs_first: bool  # multiplies one row faster by a matrix with a row per input
    maps_blocks: bool  # a loop over blocks is one program, which reads whole numbers as they are
    carries_matrices: bool  # attends faster to a cache in which heads lie side by side
    reads_chunks_fast: bool  # a few tokens at once take little longer than one
    takes_kernels: bool  # its arrays lie where keras-gemma-kernels read them


def traits() -> Traits:
    """Of the running backend, on its device."""
    name, on_cpu = keras.config.backend(), arrays.device_kind() == "cpu"
    if name == "jax":
        return Traits(on_cpu, on_cpu, True, on_cpu, True, on_cpu)
    if name == "torch":
        return Traits(False, on_cpu, False, on_cpu, on_cpu, on_cpu)
    return Traits(on_cpu, on_cpu, True, on_cpu, True, False)


def marks(variables: Iterable[Any]) -> list:
    """By these `changed` tells whether a variable was given new values since."""
    # Asked before each step, of all variables: their `value`, which looks for scopes, takes 3 microseconds.
    values = [variable._value for variable in variables]
    name = keras.config.backend()
    if name == "jax":  # an array never changes, a variable gets another one
        return [weakref.ref(value) for value in values]
    if name == "tensorflow":  # nor does what was read of a variable, while somebody holds it
        import tensorflow as tf

        read = tf.raw_ops.ReadVariableOp  # a third of the time of `read_value`
        return [read(resource=value.handle, dtype=value.dtype) for value in values]
    return [(value.data_ptr(), value._version) for value in values]


def changed(variables: Iterable[Any], before: list) -> bool:
    """Whether any variable is not what it was when `before` was taken by `marks`."""
    name = keras.config.backend()
    if name == "jax":
        return any(mark() is not v._value for v, mark in zip(variables, before, strict=True))
    now = marks(variables)
    if name == "tensorflow":  # both are held: they lie in one place only if nobody wrote
        return [*map(arrays.pointer, now)] != [*map(arrays.pointer, before)]
    return now != before


def write_rows(there_BS: Any, slot_BT: Any, new_BT: Any, real_BT: Any) -> Any:
    """`there` with `new[b, t]` in slot `slot[b, t]` of row b, where it is real; in place if it can be.

    No two tokens of a row may be given one slot. An only row may lack its axis in `there`.
    """
    new_BT = ops.cast(new_BT, there_BS.dtype)
    if len(there_BS.shape) < len(new_BT.shape):
        return _write_slots(there_BS, slot_BT[0], new_BT[0], real_BT[0])
    (rows, slots), rest = there_BS.shape[:2], there_BS.shape[2:]
    rows_B1 = ops.arange(rows, dtype="int32")[:, None]
    if keras.config.backend() == "torch":
        return _put(there_BS, (rows_B1, slot_BT), new_BT, real_BT)
    if rows * slot_BT.shape[1] <= _SLICES:
        for row in range(rows):
            there_BS = _write_slots(there_BS, slot_BT[row], new_BT[row], real_BT[row], (row,))
        return there_BS
    place_M = ops.reshape(rows_B1 * slots + slot_BT, (-1,))
    real_M = ops.reshape(real_BT, (-1, *(1 for _ in rest)))
    new_M = ops.reshape(new_BT, (-1, *rest))
    there_M = ops.reshape(there_BS, (-1, *rest))
    new_M = ops.where(real_M, new_M, ops.take(there_M, place_M, axis=0))
    return ops.reshape(ops.scatter_update(there_M, place_M[:, None], new_M), there_BS.shape)


def _put(there, place, new, real):
    real = ops.reshape(real, (*real.shape, *(1 for _ in new.shape[len(real.shape) :])))
    return there.index_put_(place, ops.where(real, new, there[place]))


def _write_slots(there, slot_T, new_T, real_T, row=()):
    """One row, or what is one row: XLA writes a slice of what a loop carries in place."""
    if keras.config.backend() == "torch":
        return _put(there, (slot_T,), new_T, real_T)
    for token in range(slot_T.shape[0]):
        slot = slot_T[token]
        # Not ops.slice, whose start TensorFlow compiles into the program.
        old = ops.take(there[row], slot, axis=0)
        new = ops.where(real_T[token], new_T[token], old)
        start = *row, slot, *(0 for _ in new.shape)
        there = ops.slice_update(there, start, ops.reshape(new, (1,) * (len(row) + 1) + new.shape))
    return there


_SLICES = 4  # written one by one; each is a few operations more to compile


def put_row(there_B: Any, row: Any, new_1: Any) -> Any:
    """`there` with the one row of `new` in place of a row; in place if it can be."""
    if keras.config.backend() == "torch":
        there_B[row] = new_1[0]
        return there_B
    return ops.slice_update(there_B, (row, *(0 for _ in there_B.shape[1:])), new_1)
