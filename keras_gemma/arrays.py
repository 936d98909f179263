"""NumPy arrays into a backend's memory and back, with no copy more than it needs.

What large checkpoints take is decided here: on each backend, weights that are about to be loaded
take no memory before, and one array beside them while they are.
"""

import ctypes
import functools
import math
import sys
from typing import Any

import keras
import ml_dtypes  # noqa: F401  (so that NumPy knows "bfloat16")
import numpy as np

_BLOCK = 128  # numbers along an axis that are copied together
_LITTLE = sys.byteorder == "little"  # the first number's bytes are the lowest
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.argtypes, _pointer_of.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
_LONG = 1.0  # seconds of a compilation that leaves enough behind
_ALIGNMENT = 64  # bytes; XLA takes an array of the host as it is if it starts at a multiple


def empty(shape: tuple[int, ...], dtype: str | np.dtype) -> np.ndarray:
    """Zeros that take no memory until they are written, where each backend may use them in place.

    >>> empty((2, 3), "bfloat16").ctypes.data % 64
    0
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype="int64")) * dtype.itemsize
    raw = np.zeros(size + _ALIGNMENT, "uint8")
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def blank(shape: tuple[int, ...], dtype: str) -> Any:
    """A tensor to be overwritten: its numbers may be anything."""
    name = keras.backend.backend()
    if name == "torch":
        like: Any = keras.ops.zeros((), dtype)  # knows torch's name of the dtype, and the device
        return like.new_empty(tuple(shape))
    return _lent(empty(shape, dtype), name)


def place(variable: Any, array: np.ndarray) -> None:
    """Give a Keras variable the numbers of an array, in the variable's dtype and sharding."""
    name = keras.backend.backend()
    lent = _lent(usable(array, variable.dtype), name)
    if name == "torch" and variable.value.device == lent.device:
        variable.value.data = lent  # Keras would copy it, by way of float32 if it is bfloat16
    else:
        variable.assign(lent)


def usable(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array of that dtype whose memory each backend may use in place: itself, or a copy.

    >>> turned = np.ones((2, 3), "float32").T
    >>> usable(turned, "float32").flags.c_contiguous
    True
    """
    if _usable_in_place(array, np.dtype(dtype)):
        return array
    copy = empty(array.shape, dtype)
    _copy(array, copy)
    return copy


def lent(array: np.ndarray) -> Any:
    """A tensor of the running backend in the memory of an array, which is not to be used again."""
    return _lent(usable(array, array.dtype), keras.backend.backend())


def own(variables: Any) -> None:
    """Give variables memory of their own, one after the other, where it was lent by NumPy.

    A program of JAX may write new weights where the old ones were, but not in lent memory: it would
    hold all of them twice.
    """
    if keras.backend.backend() != "jax":
        return
    import jax

    for variable in variables:
        if variable.value.devices() == {jax.devices("cpu")[0]}:
            variable.assign(jax.numpy.copy(variable.value))
    give_back_after_compiling()
    _give_back()


@functools.cache
def give_back_after_compiling() -> None:
    """From now on, what a compiler took is the system's again before the program runs; on JAX.

    Of a step that trains 18 layers that is a quarter of a GB.
    """
    if keras.backend.backend() != "jax":
        return
    import jax

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration") and seconds > _LONG:
            _give_back()

    jax.monitoring.register_event_duration_secs_listener(listen)


def _give_back():
    """The C library of Linux keeps what was freed in pieces below 32 MB: all weights but the table, for one."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _lent(array, name):
    """A tensor that keeps its numbers where the array has them; the array is not to be used again."""
    if name == "jax":
        import jax

        return jax.device_put(array)
    plain = array.view(f"int{8 * array.itemsize}")  # a type of NumPy's own: bfloat16 is none
    if name == "torch":
        import torch

        return torch.from_numpy(plain).view(getattr(torch, array.dtype.name))
    import tensorflow as tf

    # `convert_to_tensor` makes two copies, and keeps the memory of one.
    return tf.bitcast(tf.experimental.dlpack.from_dlpack(plain.__dlpack__()), str(array.dtype))


def _copy(source, target):
    """`target[...] = source`, many times as fast where the axes of the source were exchanged."""
    fast = min(range(source.ndim), key=lambda axis: abs(source.strides[axis]), default=-1)
    if source.ndim < 2 or fast == source.ndim - 1:
        target[...] = source
        return
    # In blocks that the processor's cache holds: neither side is read or written across its rows.
    for first in range(0, source.shape[fast], _BLOCK):
        for last in range(0, source.shape[-1], _BLOCK):
            block: list[Any] = [slice(None)] * source.ndim
            block[fast], block[-1] = slice(first, first + _BLOCK), slice(last, last + _BLOCK)
            _exchange(source[tuple(block)], target[tuple(block)], fast)


def _exchange(source, target, fast):
    """A block of `_copy`: two numbers are moved as one of twice their width, where there are two."""
    size = source.itemsize
    paired = source.shape[fast] % 2 == source.shape[-1] % 2 == 0 and source.strides[fast] == size
    if not paired or size not in (2, 4) or source.dtype != target.dtype or not _LITTLE:
        target[...] = source
        return
    bits, wide = 8 * size, f"uint{16 * size}"
    pairs, out = source.swapaxes(fast, -1).view(wide), target.view(wide)
    before = (slice(None),) * fast
    even, odd = (before + (slice(k, None, 2),) for k in (0, 1))
    low, high = pairs[even], pairs[odd]
    out[even] = ((low & (2**bits - 1)) | (high << bits)).swapaxes(fast, -1)
    out[odd] = ((low >> bits) | (high >> bits << bits)).swapaxes(fast, -1)


def _usable_in_place(array, dtype):
    flags = array.flags
    aligned = array.ctypes.data % _ALIGNMENT == 0
    return array.dtype == dtype and flags.c_contiguous and flags.writeable and aligned


def fetch(variable: Any) -> np.ndarray:
    """The numbers of a Keras variable, in its dtype."""
    if keras.backend.backend() == "torch" and variable.dtype == "bfloat16":
        import torch

        tensor = variable.value.detach().cpu().contiguous()
        return tensor.view(torch.int16).numpy().view(np.dtype("bfloat16"))
    return np.asarray(keras.ops.convert_to_numpy(variable.value))


def nbytes(tensor: Any) -> int:
    """Bytes that the numbers of a tensor or variable take."""
    width = np.dtype(keras.backend.standardize_dtype(tensor.dtype)).itemsize
    return math.prod(tensor.shape) * width


def address(tensor: Any) -> int | None:
    """Where the numbers of a tensor begin in the host's memory; `None` where they lie elsewhere or apart."""
    name = keras.backend.backend()
    if name == "torch":
        return tensor.data_ptr() if tensor.device.type == "cpu" else None
    if name == "jax":
        devices = tensor.devices()
        alone = len(devices) == 1 and next(iter(devices)).platform == "cpu"
        return tensor.unsafe_buffer_pointer() if alone else None
    on_host = tensor.device.endswith("CPU:0")
    return pointer(tensor) if on_host else None


def pointer(tensor: Any) -> int:
    """Where the numbers of a tensor of TensorFlow begin, on whatever device.

    TensorFlow says so only where it lends them to others (DLPack, of which the first field is the address).
    """
    import tensorflow as tf

    capsule = tf.experimental.dlpack.to_dlpack(tensor)
    return ctypes.c_void_p.from_address(_pointer_of(capsule, b"dltensor")).value or 0


def generator_state() -> np.ndarray | None:
    """Where the backend's own generator of the host stands: PyTorch's, by which Keras shuffles arrays.

    JAX has none, and of TensorFlow's Keras uses none.
    """
    if keras.backend.backend() != "torch":
        return None
    import torch

    return torch.get_rng_state().numpy()


def set_generator_state(state: np.ndarray) -> None:
    """Let PyTorch's generator go on from where `generator_state` found it; others have none."""
    if keras.backend.backend() == "torch":
        import torch

        torch.set_rng_state(torch.from_numpy(state))


def device_kind() -> str:
    """Of the device that arrays are made on: "cpu", "gpu", "tpu", or what the backend calls another.

    >>> device_kind()
    'cpu'
    """
    name = keras.backend.backend()
    if name == "jax":
        import jax

        return jax.default_backend()
    if name == "torch":  # Keras has a default of its own, which PyTorch isn't told of
        kind = keras.ops.zeros(()).device.type
        return "gpu" if kind == "cuda" else kind
    import tensorflow as tf

    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def fuses_attention() -> bool:
    """Whether the device attends without scores in memory: by cuDNN (JAX) or SDPA (PyTorch)."""
    return keras.backend.backend() != "tensorflow" and device_kind() == "gpu"


def runs_splash() -> bool:
    """Whether the device runs JAX's splash attention: a TPU, with whole arrays on each."""
    on_tpu = keras.backend.backend() == "jax" and device_kind() == "tpu"
    return on_tpu and keras.distribution.distribution() is None
