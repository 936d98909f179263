"""Products and the steps of a decoder block.

B batch rows, T tokens of each, D model width, N query heads, K key heads, H head width, F
feed-forward width of one branch, S slots of a cache, V vocabulary.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from keras_gemma_kernels import _native
from keras_gemma_kernels.packed import Packed, is_jax, is_torch, weight_pointer
from keras_gemma_kernels.trees import register_trees, tree


class Rules(NamedTuple):
    """What attention needs to know of a layer. keras_gemma's AttentionRules serves as well."""

    num_query_heads: int
    num_key_value_heads: int
    head_dim: int
    scale: float
    soft_cap: float | None = None
    window: int | None = None  # tokens a query looks back on, itself included; None: all
    rope_base: float = 10_000.0
    rope_scaling: float = 1.0


@tree("rules", "epsilon")
@dataclasses.dataclass(frozen=True)
class Block:
    """The weights of a decoder block. Norms are float32 and kept less one, as Gemma's are.

    qkv: [(N + 2K) * H, D], the queries' rows, then keys', then values'.
    output: [D, N * H].
    gate_up: [2F, D], the gate's rows, then the other branch's.
    down: [D, F].
    """

    qkv: Packed
    output: Packed
    gate_up: Packed
    down: Packed
    pre_attention_norm: Any  # D
    pre_ffw_norm: Any  # D
    rules: Any
    epsilon: float = 1e-6
    post_attention_norm: Any = None  # D
    post_ffw_norm: Any = None  # D
    query_norm: Any = None  # H
    key_norm: Any = None  # H

    def __post_init__(self):
        register_trees()

    def check(self) -> None:
        """Compare every shape with the rules; a ValueError names what does not fit."""
        rules, inputs = self.rules, self.qkv.shape[1]
        queries, keys = rules.num_query_heads, rules.num_key_value_heads
        attended, ffw = queries * rules.head_dim, self.down.shape[1]
        if queries % keys or rules.head_dim % 2:
            raise ValueError(f"{queries} query heads of {rules.head_dim} on {keys} key heads.")
        for name, awaited in (
            ("qkv", (attended + 2 * keys * rules.head_dim, inputs)),
            ("output", (inputs, attended)),
            ("gate_up", (2 * ffw, inputs)),
            ("down", (inputs, ffw)),
            ("pre_attention_norm", (inputs,)),
            ("pre_ffw_norm", (inputs,)),
            ("post_attention_norm", (inputs,)),
            ("post_ffw_norm", (inputs,)),
            ("query_norm", (rules.head_dim,)),
            ("key_norm", (rules.head_dim,)),
        ):
            part = getattr(self, name)
            optional = name.startswith(("post", "query", "key"))
            if part is None and optional:
                continue
            if tuple(part.shape) != awaited:
                raise ValueError(f"{name} is of shape {list(part.shape)}, not {list(awaited)}.")
            if not isinstance(part, Packed) and not str(part.dtype).endswith("float32"):
                raise ValueError(f"{name} is {part.dtype}, not float32.")

    @functools.cached_property
    def numbers(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The rules as the library takes them; 0 says none."""
        rules = self.rules
        return (
            rules.num_query_heads,
            rules.num_key_value_heads,
            rules.head_dim,
            rules.window or 0,
        ), (
            rules.scale,
            rules.soft_cap or 0.0,
            rules.rope_base,
            rules.rope_scaling,
            self.epsilon,
        )

    @functools.cached_property
    def native(self) -> tuple[_native.Block, _native.Rules]:
        """For calls by pointer: NumPy and PyTorch."""
        self.check()
        packed = {n: getattr(self, n).native for n in ("qkv", "output", "gate_up", "down")}
        norms = {
            name: weight_pointer(name, getattr(self, name))
            for name, _ in _native.Block._fields_
            if name.endswith("norm") and getattr(self, name) is not None
        }
        sizes, numbers = self.numbers
        return _native.Block(**packed, **norms), _native.Rules(*sizes, *numbers)


def linear(x, packed: Packed):
    """The product of x [..., inputs] with packed weights, transposed: float32 [..., outputs].

    A row's result is the same bit for bit whatever rows it is computed with. Rows of zeros cost next to
    nothing.
    """
    return _face(x).linear(x, packed)


def rows(packed: Packed, ids):
    """Rows of packed weights, an embedding's look-up: int32 ids [...] to float32 [..., inputs].

    The factor sqrt(D) of Gemma's embedding is the caller's. An id out of range is an IndexError, in
    JAX an error of the running program.
    """
    return _face(ids).rows(packed, ids)


def attention_inputs(x, block: Block):
    """Norm, then queries, keys and values: x [B, T, D] to [B, T, (N + 2K) * H]."""
    return _face(x).norm_linear(x, block.pre_attention_norm, block.qkv, block.epsilon)


def attend(qkv, positions, cache, block: Block):
    """Rope, the cache's write and attention: qkv [B, T, (N + 2K) * H] to ([B, T, N * H], cache).

    positions: `(index, segment)`, int32 [B, T]: the place in the document, and its number; 0 is
        padding, which is not remembered and gets zeros.
    cache: `(keys, values, index, segment, stored)` of [B, S, K, H] twice (float32 or bfloat16), int32
        [B, S] twice and [B]; token n of a row lies in slot n mod S, which a window must fit.
        Returned as the same kind of tuple. PyTorch and NumPy write to the tensors themselves; so
        does JAX where the cache is donated.
    """
    return _face(qkv).attend(qkv, positions, cache, block)


def attention_output(x, y, block: Block):
    """x plus the (normed) product of what was attended to, y [B, T, N * H]."""
    return _face(x).add_linear(x, y, block.post_attention_norm, block.output, block.epsilon)


def feed_forward(x, block: Block):
    """x [B, T, D] plus its feed-forward branch: norm, GeGLU, product (and norm)."""
    return _face(x).feed_forward(x, block)


def decoder_block(x, positions, cache, block: Block):
    """All steps of a block in one call: `(x, cache)`; arguments as in `attend`.

    Padding comes out as zeros, and costs next to nothing.
    """
    return _face(x).decoder_block(x, positions, cache, block)


def head(x, norm, packed: Packed, *, soft_cap: float | None = None, epsilon: float = 1e-6):
    """The last norm and the logits, capped where Gemma 2 does: x [..., D] to [..., V]."""
    return _face(x).norm_linear(x, norm, packed, epsilon, soft_cap or 0.0)


def _face(x):
    if is_jax(x):
        from keras_gemma_kernels import on_jax

        return on_jax
    if not is_torch(x) and not isinstance(x, np.ndarray):
        raise TypeError(f"A JAX, PyTorch or NumPy array was awaited, not {type(x).__name__}.")
    from keras_gemma_kernels import on_host

    return on_host
