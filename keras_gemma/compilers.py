"""What the compilers of backends would make of a program, and how they are kept from it.

What is written once they may compute many times, or keep from the start of a step to its end.
"""

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_gemma.arrays import device_kind


def argmax(x: Any) -> Any:
    """Where the largest number along the last axis stands, int32; the first of them if there are several.

    XLA makes a loop over single numbers of its own `argmax`: a millisecond for a vocabulary on a CPU, an
    eighth of that for the largest number and then the first place that has it. NaN has no place: the last one is named.

    >>> keras.ops.convert_to_numpy(argmax(keras.ops.array([[1.0, 3.0, 3.0]]))).tolist()
    [1]
    """
    if keras.backend.backend() == "torch":
        return keras.ops.cast(keras.ops.argmax(x, axis=-1), "int32")
    last = x.shape[-1] - 1
    places = keras.ops.arange(last + 1, dtype="int32")
    is_largest = keras.ops.equal(x, keras.ops.max(x, axis=-1, keepdims=True))
    return keras.ops.min(keras.ops.where(is_largest, places, last), axis=-1)


def apart(function: Callable, *arrays: Any) -> Any:
    """`function(*arrays)`, which its users must not compute again.

    XLA on CPUs takes what is cheap to write down into each loop that uses it: of a cosine that all heads of a token
    share, one for each of them is computed, a twentieth of the time to read a prompt. And to slice an array of 16-bit floats
    in a loop, it makes all of it float32 before the loop.
    """
    if keras.backend.backend() == "jax" and _inlines(arrays):
        import jax
        from jax.experimental.xla_metadata import set_xla_metadata

        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*arrays)
    return function(*arrays)


def keeps_copies(x: Any, kernel: Any, dtype: str) -> bool:
    """Whether a product of `x` and a kernel in `dtype` leaves a copy of the kernel in memory until the gradient.

    XLA's products on CPUs are of float32. Copies of weights it makes as soon as it can, which is when a step
    begins, and keeps them: four bytes for each of bfloat16's two. PyTorch turns kernels of several heads.
    """
    if keras.backend.backend() == "jax":
        return dtype != "float32" and _inlines([x])
    return trains(x) and len(kernel.shape) > 2


def not_before(x: Any, weights: Any) -> Any:
    """Weights of which XLA makes nothing before there is `x`, however cheap it finds to do that at once.

    With several devices they are left as they are: a number of `x` would have to travel.
    """
    if keras.backend.backend() != "jax" or not _alone([x]):
        return weights
    zero = 0 * keras.ops.nan_to_num(x[(0,) * x.ndim])
    return weights + keras.ops.cast(zero, weights.dtype)


def as_bits(x: Any) -> Any:
    """On JAX, floats of 16 bits as whole numbers: to slice an array of them, XLA on CPUs makes it float32 first, all of it."""
    if keras.backend.backend() == "jax" and x.dtype.itemsize == 2:
        import jax

        return jax.lax.bitcast_convert_type(x, "uint16")
    return x


def as_floats(bits: Any, dtype: str) -> Any:
    """What `as_bits` was given, or a part of it."""
    if keras.backend.backend() == "jax" and bits.dtype == "uint16":
        import jax

        return jax.lax.bitcast_convert_type(bits, dtype)
    return bits


def numbers_at_once() -> float:
    """How many numbers of a large product are best made, and worked on, before the next ones are begun.

    A processor's cache holds a few MB, and what takes less than 32 MB lies where the numbers before lay: room for more
    is had from the system anew. A GPU is waited for where they are few. No number is too large for several devices, of which
    each has a part.
    """
    if keras.backend.backend() == "jax" and not _one_device():
        return math.inf
    return 2**20 if device_kind() == "cpu" else 2**24


def tensor_array(count: int, shape: tuple, dtype: str, zero: Any) -> Any:
    """`count` tensors of zeros, which loops `write` and `read` one by one, and `stacked` makes a single one of.

    A single one from the beginning TensorFlow would copy whenever a part of it is written.

    Args:
        zero: a scalar that is zero, and no constant: of one, TensorFlow keeps all tensors from step to step.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        known = [n if isinstance(n, int) else None for n in shape]
        return tf.TensorArray(dtype, count, element_shape=known, clear_after_read=False)
    return keras.ops.broadcast_to(keras.ops.cast(zero, dtype), (count, *shape))


def write(array: Any, place: Any, tensor: Any) -> Any:
    """The array with another tensor in a place."""
    if keras.backend.backend() == "tensorflow":
        return array.write(place, tensor)
    return keras.ops.slice_update(array, (place, *[0] * tensor.ndim), tensor[None])


def read(array: Any, place: Any) -> Any:
    """A tensor of the array."""
    return array.read(place) if keras.backend.backend() == "tensorflow" else array[place]


def stacked(array: Any) -> Any:
    """All tensors of the array as one."""
    return array.stack() if keras.backend.backend() == "tensorflow" else array


def in_each_row(x_CR: Any, places_C: Any) -> Any:
    """The number of each row that stands in its place; 0 where the row has no such place.

    XLA makes a comparison with all places part of the loop around it, and cuts it for several devices as it does
    the rows. TensorFlow would make arrays of it.
    """
    if keras.backend.backend() == "jax":
        return keras.ops.sum(keras.ops.where(_is_place(x_CR, places_C), x_CR, 0), axis=-1)
    places_C, is_there_C = _within(x_CR, places_C)
    found_C1 = keras.ops.take_along_axis(x_CR, places_C[:, None], axis=-1)
    return keras.ops.where(is_there_C, found_C1[:, 0], 0)


def added_in_each_row(x_CR: Any, places_C: Any, more_C: Any) -> Any:
    """Rows with a number added in each one's place, as `in_each_row` finds it."""
    if keras.backend.backend() == "jax":
        return x_CR + keras.ops.where(_is_place(x_CR, places_C), more_C[:, None], 0)
    places_C, is_there_C = _within(x_CR, places_C)
    rows_C = keras.ops.arange(keras.ops.shape(x_CR)[0], dtype="int32")
    places_C2 = keras.ops.stack([rows_C, places_C], axis=-1)
    more_C = keras.ops.where(is_there_C, more_C, 0)
    return keras.ops.scatter_update(x_CR, places_C2, more_C, reduction="add")


def _is_place(x_CR, places_C):
    return keras.ops.arange(x_CR.shape[1], dtype="int32")[None] == places_C[:, None]


def _within(x_CR, places_C):
    last = x_CR.shape[1] - 1
    return keras.ops.clip(places_C, 0, last), (places_C >= 0) & (places_C <= last)


def can_branch() -> bool:
    """Whether what is being computed may depend on what was: not while PyTorch writes a step down."""
    if keras.backend.backend() != "torch":
        return True
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is None


def trains(tensor: Any) -> bool:
    """Whether PyTorch keeps what the gradient of a tensor takes; other backends are not asked."""
    return keras.backend.backend() == "torch" and tensor.requires_grad


def in_order(tensor: Any) -> Any:
    """The tensor, row after row in memory; a transposed one is a mere view on PyTorch."""
    return tensor.contiguous() if keras.backend.backend() == "torch" else tensor


def _inlines(arrays):
    import jax

    return _alone(arrays) and jax.default_backend() == "cpu"


def _alone(arrays):
    """Whether JAX writes down a program for one device."""
    import jax

    return _one_device() and any(isinstance(a, jax.core.Tracer) for a in arrays)


def _one_device():
    import jax

    return jax.device_count() == 1
