"""The kernels as calls of XLA's foreign function interface, on XLA's own threads.

Each call is one instruction of the compiled program (0.09 us); caches are aliased, so a donated one, or
one carried by a loop, is written in place.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from keras_gemma_kernels import _native
from keras_gemma_kernels.check import check_cache, check_norm, check_rows

_TYPES = jnp.dtype("float32"), jnp.dtype(jnp.bfloat16), jnp.dtype("int32")
_NAMES = ("linear", "rows", "norm_linear", "add_linear", "feed_forward", "attend", "decoder_block")


def _register():
    library = _native.library()
    built = library.kg_xla_api()
    if built < 0:
        raise ImportError("keras-gemma-kernels was built without jaxlib, so without its JAX side.")
    # An interface newer than jaxlib's is refused only when XLA starts, and takes all of its CPU side down.
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    present = int(re.search(r"define XLA_FFI_API_MINOR (\d+)", header)[1])
    if built > present:
        raise ImportError(
            f"keras-gemma-kernels was built for a newer jax (FFI 0.{built}) than {jax.__version__} "
            f"(FFI 0.{present}). Update jax, or build the kernels with this jaxlib."
        )
    for name in _NAMES:
        handler = jax.ffi.pycapsule(getattr(library, f"kg_xla_{name}"))
        jax.ffi.register_ffi_target(f"keras_gemma_{name}", handler, platform="cpu")


_register()


def _call(name, results, *arguments, aliases=None, **attributes):
    call = jax.ffi.ffi_call(
        f"keras_gemma_{name}",
        results,
        input_output_aliases=aliases,
        vmap_method="sequential",
    )
    return call(*arguments, **attributes)


def _data(packed):
    packed.check()
    return jnp.asarray(packed.data)


def _norm(weight, width):
    if weight is None:  # an empty array says so to the handler
        return jnp.zeros((0,), jnp.float32)
    weight = jnp.asarray(weight)
    check_norm(weight, width, _TYPES)
    return weight


def _floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def linear(x, packed):
    check_rows("x", x, packed.shape[1], _TYPES)
    y = _floats(*x.shape[:-1], packed.shape[0])
    return _call("linear", y, x, _data(packed), kind=np.int64(packed.kind))


def rows(packed, ids):
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"ids must be whole numbers, not {ids.dtype}.")
    outputs, inputs = packed.shape
    return _call(
        "rows",
        _floats(*ids.shape, inputs),
        ids.astype(jnp.int32),
        _data(packed),
        kind=np.int64(packed.kind),
        outputs=np.int64(outputs),
    )


def norm_linear(x, norm, packed, epsilon, cap=0.0):
    check_rows("x", x, packed.shape[1], _TYPES)
    return _call(
        "norm_linear",
        _floats(*x.shape[:-1], packed.shape[0]),
        x,
        _norm(norm, packed.shape[1]),
        _data(packed),
        kind=np.int64(packed.kind),
        epsilon=np.float32(epsilon),
        cap=np.float32(cap),
    )


def add_linear(x, y, norm, packed, epsilon):
    check_rows("x", x, packed.shape[0], _TYPES)
    check_rows("y", y, packed.shape[1], _TYPES, x.shape[:-1])
    return _call(
        "add_linear",
        _floats(*x.shape),
        x,
        y,
        _norm(norm, packed.shape[0]),
        _data(packed),
        kind=np.int64(packed.kind),
        epsilon=np.float32(epsilon),
    )


def feed_forward(x, block):
    block.check()
    check_rows("x", x, block.gate_up.shape[1], _TYPES)
    return _call(
        "feed_forward",
        _floats(*x.shape),
        x,
        _norm(block.pre_ffw_norm, x.shape[-1]),
        _norm(block.post_ffw_norm, x.shape[-1]),
        _data(block.gate_up),
        _data(block.down),
        kinds=np.array([block.gate_up.kind, block.down.kind], np.int64),
        width=np.int64(block.down.shape[1]),
        epsilon=np.float32(block.epsilon),
    )


def _with_cache(name, x, positions, cache, block, arguments, result, first_of_cache, **attributes):
    """A call whose results are `result` and the cache, each part of it in place."""
    check_cache(x, positions, cache, block.rules, _TYPES)
    sizes, numbers = block.numbers
    parts = [jax.ShapeDtypeStruct(part.shape, part.dtype) for part in cache]
    y, *kept = _call(
        name,
        (result, *parts),
        *arguments,
        aliases={first_of_cache + i: 1 + i for i in range(5)},
        sizes=np.array(sizes, np.int64),
        numbers=np.array(numbers, np.float32),
        **attributes,
    )
    return y, type(cache)(*kept) if hasattr(cache, "_fields") else tuple(kept)


def attend(qkv, positions, cache, block):
    block.check()
    check_rows("qkv", qkv, block.qkv.shape[0], _TYPES)
    head = block.rules.head_dim
    norms = _norm(block.query_norm, head), _norm(block.key_norm, head)
    result = _floats(*qkv.shape[:-1], block.output.shape[1])
    arguments = (qkv, *positions, *norms, *cache)
    return _with_cache("attend", qkv, positions, cache, block, arguments, result, 5)


def decoder_block(x, positions, cache, block):
    block.check()
    check_rows("x", x, block.qkv.shape[1], _TYPES)
    weights = (block.qkv, block.output, block.gate_up, block.down)
    width, head = x.shape[-1], block.rules.head_dim
    norms = (
        _norm(block.pre_attention_norm, width),
        _norm(block.query_norm, head),
        _norm(block.key_norm, head),
        _norm(block.post_attention_norm, width),
        _norm(block.pre_ffw_norm, width),
        _norm(block.post_ffw_norm, width),
    )
    arguments = (x, *positions, *cache, *map(_data, weights), *norms)
    return _with_cache(
        "decoder_block",
        x,
        positions,
        cache,
        block,
        arguments,
        _floats(*x.shape),
        3,
        kinds=np.array([part.kind for part in weights], np.int64),
        width=np.int64(block.down.shape[1]),
    )
