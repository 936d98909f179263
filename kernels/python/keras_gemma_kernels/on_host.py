"""The kernels on PyTorch's and NumPy's memory, by pointer.

Nothing of PyTorch is linked, so one build serves all its releases. A call through ctypes takes some
8 us, through `torch.library.custom_op` 18 us, a linked operator 3 us; `decoder_block` is one call, so that
this does not show. Inside `torch.compile` a call is a break of the graph.
"""

import functools
import sys
from ctypes import byref
from typing import Any, NamedTuple

import numpy as np

from keras_gemma_kernels import _native
from keras_gemma_kernels.check import check_cache, check_norm, check_rows
from keras_gemma_kernels.packed import is_torch, threads


class Memory(NamedTuple):
    """What differs between PyTorch and NumPy."""

    types: tuple  # float32, bfloat16, int32
    contiguous: Any
    writable: Any  # in place, by pointer
    pointer: Any
    empty: Any  # of float32
    threads: Any


@functools.cache
def _torch():
    torch = sys.modules["torch"]

    def contiguous(x):
        if x.device.type != "cpu":
            raise ValueError(f"Activations are on {x.device}; the kernels run on the CPU.")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError("The kernels have no gradients: use torch.inference_mode().")
        return x.contiguous()

    return Memory(
        (torch.float32, torch.bfloat16, torch.int32),
        contiguous,
        lambda x: x.is_cpu and x.is_contiguous(),
        torch.Tensor.data_ptr,
        functools.partial(torch.empty, dtype=torch.float32),
        torch.get_num_threads,
    )


_NUMPY = Memory(
    (np.dtype("float32"), "bfloat16", np.dtype("int32")),
    np.ascontiguousarray,
    lambda x: x.flags.c_contiguous and x.flags.writeable,
    lambda x: x.ctypes.data,
    functools.partial(np.empty, dtype="float32"),
    threads,
)


def _memory(x) -> Memory:
    return _torch() if is_torch(x) else _NUMPY


def _count(x):
    rows = 1
    for size in x.shape[:-1]:
        rows *= size
    return rows


def linear(x, packed):
    memory = _memory(x)
    check_rows("x", x, packed.shape[1], memory.types)
    x = memory.contiguous(x)
    y = memory.empty((*x.shape[:-1], packed.shape[0]))
    arguments = byref(packed.native), memory.pointer(x), _count(x), memory.pointer(y)
    _native.library().kg_linear(*arguments, None, None, memory.threads())
    return y


def rows(packed, ids):
    memory = _memory(ids)
    whole = np.ascontiguousarray(memory.contiguous(ids))
    if whole.dtype.kind not in "iu":
        raise ValueError(f"ids must be whole numbers, not {ids.dtype}.")
    outputs, inputs = packed.shape
    if whole.size and not (0 <= whole.min() and whole.max() < outputs):
        raise IndexError(f"ids must be in 0..{outputs - 1}, not {whole.min()}..{whole.max()}.")
    whole = whole.astype("int32")
    y = memory.empty((*whole.shape, inputs))
    arguments = byref(packed.native), whole.ctypes.data, whole.size, memory.pointer(y)
    _native.library().kg_rows(*arguments)
    return y


def norm_linear(x, norm, packed, epsilon, cap=0.0):
    memory = _memory(x)
    check_rows("x", x, packed.shape[1], memory.types)
    check_norm(norm, packed.shape[1], memory.types)
    x, norm = memory.contiguous(x), memory.contiguous(norm)
    y = memory.empty((*x.shape[:-1], packed.shape[0]))
    pointers = memory.pointer(norm), epsilon, cap, memory.pointer(x), _count(x), memory.pointer(y)
    _native.library().kg_norm_linear(byref(packed.native), *pointers, None, None, memory.threads())
    return y


def add_linear(x, y, norm, packed, epsilon):
    memory = _memory(x)
    check_rows("x", x, packed.shape[0], memory.types)
    check_rows("y", y, packed.shape[1], memory.types, x.shape[:-1])
    x, y, out = memory.contiguous(x), memory.contiguous(y), memory.empty(x.shape)
    weight = None
    if norm is not None:
        check_norm(norm, packed.shape[0], memory.types)
        norm = memory.contiguous(norm)
        weight = memory.pointer(norm)
    pointers = memory.pointer(x), memory.pointer(y), _count(x), memory.pointer(out)
    _native.library().kg_add_linear(
        byref(packed.native), weight, epsilon, *pointers, None, None, memory.threads()
    )
    return out


def feed_forward(x, block):
    memory = _memory(x)
    native, _ = block.native
    check_rows("x", x, block.gate_up.shape[1], memory.types)
    x = memory.contiguous(x)
    y = memory.empty(x.shape)
    arguments = byref(native), block.epsilon, memory.pointer(x), _count(x), memory.pointer(y)
    _native.library().kg_feed_forward(*arguments, None, None, memory.threads())
    return y


def attend(qkv, positions, cache, block):
    call = _native.library().kg_attend
    return _with_cache(
        call, qkv, "qkv", block.qkv.shape[0], block.output.shape[1], positions, cache, block
    )


def decoder_block(x, positions, cache, block):
    width = block.qkv.shape[1]
    call = _native.library().kg_decoder_block
    return _with_cache(call, x, "x", width, width, positions, cache, block)


def _with_cache(call, x, name, width, result, positions, cache, block):
    memory = _memory(x)
    native, rules = block.native
    check_rows(name, x, width, memory.types)
    check_cache(x, positions, cache, block.rules, memory.types)
    for part in cache:
        if not memory.writable(part):
            raise ValueError("A cache is written in place: it must be contiguous, and on the CPU.")
    x, index, segment = map(memory.contiguous, (x, *positions))
    y = memory.empty((*x.shape[:-1], result))
    pointer, keys = memory.pointer, cache[0]
    call(
        byref(native),
        byref(rules),
        byref(_native.Tokens(*x.shape[:2], pointer(index), pointer(segment))),
        pointer(x),
        byref(_native.Cache(*map(pointer, cache), keys.shape[1], keys.dtype == memory.types[1])),
        pointer(y),
        None,
        None,
        memory.threads(),
    )
    return y, cache
