"""Small GGUF files for the tests of this folder, made by the `gguf` package or byte by byte."""

import struct

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from keras_gemma.conversion.tensors import Writable

TEXT, ARRAY = 8, 9


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype("float32")


def writable(name, numbers, dtype):
    return Writable(name, numbers.shape, dtype, lambda: numbers)


def by_reference(path, quantized=("Q8_0", "Q4_0", "Q5_0")):
    """A file with many kinds of keys and tensors, as the reference writes it."""
    writer = gguf.GGUFWriter(path, "gemma")
    writer.add_block_count(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_bool("a.switch", True)
    writer.add_int32("an.int", -5)
    writer.add_uint64("a.long", 2**40)
    writer.add_float64("a.double", 0.1)
    writer.add_string("a.text", "é\n")
    writer.add_array("texts", ["a", "", "▁b"])
    writer.add_array("reals", [0.5, 1.5])
    writer.add_array("wholes", [1, -2, 3])
    writer.add_array("switches", [True, False])
    tensors = {"full": array(3, 5), "half": array(4, 2, 6).astype("float16"), "row": array(7)}
    for name, numbers in tensors.items():
        writer.add_tensor(name, numbers)
    for name in ("BF16", *quantized):
        kind = GGMLQuantizationType[name]
        raw = gguf.quants.quantize(array(6, 64), kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
    for kind in ("Q4_K", "Q6_K"):  # of these the reference has no quantizer
        size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
        raw = np.random.default_rng(3).integers(0, 100, (3, 2 * size), "uint8")
        writer.add_tensor(kind, raw, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(value)) + value


def tensor(name="t", shape=(4,), kind=0, offset=0, axes=None):
    """The header of a tensor; `shape` as the file has it, fastest axis first."""
    axes = len(shape) if axes is None else axes
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", axes, *shape, kind, offset)


def file(keys=(), tensors=(), numbers=16, version=3, key_count=None, tensor_count=None):
    """A whole file of these parts."""
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(numbers)


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value
