"""The library in C++, opened with ctypes."""

import ctypes
import functools
import importlib
import os
import warnings
from ctypes import POINTER, c_char_p, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import NamedTuple

ISA_VARIABLE = "KERAS_GEMMA_KERNELS_ISA"
FILE = Path(__file__).with_name("_kernels.so")


class Packed(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("kind", c_int64), ("outputs", c_int64), ("inputs", c_int64)]


class Rules(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("query_heads", "key_heads", "head_dim", "window")),
        *(
            (name, c_float)
            for name in ("scale", "soft_cap", "rope_base", "rope_scaling", "epsilon")
        ),
    ]


class Block(ctypes.Structure):
    _fields_ = [
        *((name, Packed) for name in ("qkv", "output", "gate_up", "down")),
        *(
            (name, c_void_p)
            for name in (
                "pre_attention_norm",
                "query_norm",
                "key_norm",
                "post_attention_norm",
                "pre_ffw_norm",
                "post_ffw_norm",
            )
        ),
    ]


class Cache(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("keys", "values", "index", "segment", "stored")),
        ("slots", c_int64),
        ("bfloat16", c_int64),
    ]


class Tokens(ctypes.Structure):
    _fields_ = [
        ("batch", c_int64),
        ("tokens", c_int64),
        ("index", c_void_p),
        ("segment", c_void_p),
    ]


_POOL = [c_void_p, c_void_p, c_int64]
_PACKED, _BLOCK, _RULES = POINTER(Packed), POINTER(Block), POINTER(Rules)
_TOKENS, _CACHE = POINTER(Tokens), POINTER(Cache)
_SIGNATURES = {
    "kg_isa": (c_char_p, []),
    "kg_isas": (c_char_p, []),
    "kg_use": (c_int, [c_char_p]),
    "kg_xla_api": (c_int, []),
    "kg_panel_bytes": (c_int64, [c_int64, c_int64]),
    "kg_pack": (None, [_PACKED, c_int64, c_void_p, c_void_p, c_int64, c_void_p, c_int64]),
    "kg_rows": (None, [_PACKED, c_void_p, c_int64, c_void_p]),
    "kg_linear": (None, [_PACKED, c_void_p, c_int64, c_void_p, *_POOL]),
    "kg_norm_linear": (
        None,
        [_PACKED, c_void_p, c_float, c_float, c_void_p, c_int64, c_void_p, *_POOL],
    ),
    "kg_attend": (None, [_BLOCK, _RULES, _TOKENS, c_void_p, _CACHE, c_void_p, *_POOL]),
    "kg_add_linear": (
        None,
        [_PACKED, c_void_p, c_float, c_void_p, c_void_p, c_int64, c_void_p, *_POOL],
    ),
    "kg_feed_forward": (None, [_BLOCK, c_float, c_void_p, c_int64, c_void_p, *_POOL]),
    "kg_decoder_block": (None, [_BLOCK, _RULES, _TOKENS, c_void_p, _CACHE, c_void_p, *_POOL]),
}


class Available(NamedTuple):
    """What runs here: `isa` is the instruction set in use, or None, and `reason` then says why."""

    isa: str | None
    reason: str = ""


@functools.cache
def _open():
    library = ctypes.CDLL(str(FILE))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    wanted = os.environ.get(ISA_VARIABLE)
    if wanted and wanted not in isas(library):
        warnings.warn(
            f"{ISA_VARIABLE}={wanted!r} can't run here; it may be one of "
            f"{', '.join(isas(library))}. {library.kg_isa().decode()} is used.",
            stacklevel=2,
        )
    return library


def library():
    """The opened library; an ImportError says why there is none."""
    try:
        return _open()
    except (OSError, AttributeError) as error:
        raise ImportError(f"The kernels can't be loaded: {error}") from error


def available(framework: str | None = None) -> Available:
    """The instruction set that is used here, or why there is none.

    With "jax", also whether this build and the installed jax go together.

    The best one of this processor is taken; the environment variable KERAS_GEMMA_KERNELS_ISA, read when
    the library is first used, names a lower one: portable, avx2, avx_vnni, vnni, avx512, avx512_wide; neon, dotprod.

    >>> available().isa in isas()
    True
    """
    try:
        if framework == "jax":
            importlib.import_module("keras_gemma_kernels.on_jax")
        return Available(library().kg_isa().decode())
    except ImportError as error:
        return Available(None, str(error))


def isas(opened=None) -> list[str]:
    """The instruction sets this processor can run, best last."""
    return (opened or library()).kg_isas().decode().split(",")


def use(isa: str) -> None:
    """Change the instruction set of the whole process: for tests and benchmarks."""
    if not library().kg_use(isa.encode()):
        raise ValueError(f"{isa!r} can't run here; it may be one of {', '.join(isas())}.")
