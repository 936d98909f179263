"""What we write is read by the `gguf` package, with the bytes of its own quantizer."""

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf_examples import array, writable

from keras_gemma.conversion.gguf.file import GGUFFile
from keras_gemma.conversion.gguf.writer import type_for, write_gguf
from keras_gemma.conversion.tensors import Writable

pytestmark = pytest.mark.once

KEYS = {
    "general.architecture": "gemma",
    "gemma.block_count": 18,
    "gemma.eps": 1e-6,
    "a.negative": -3,
    "a.long": 2**40,
    "a.switch": False,
    "a.text": "é",
    "texts": ["<pad>", "▁a"],
    "wholes": [1, -2],
    "reals": [0.5, 2.0],
    "types": np.array([3, 1], "int32"),
    "scores": np.array([0, -1.5], "float32"),
}
DTYPES = ["float32", "float16", "bfloat16", "F32", "F16", "BF16", "Q8_0", "q8_0", "Q4_0", "q4_0"]
GIVEN = {"float16": "float16", "bfloat16": ml_dtypes.bfloat16}


def test_the_reference_reads_the_keys_with_the_types_that_llama_cpp_awaits(tmp_path):
    path = tmp_path / "out.gguf"
    write_gguf(path, KEYS, [writable("t", array(3), "float32")])
    fields = gguf.GGUFReader(path).fields
    got = {name: field.contents() for name, field in fields.items() if name in KEYS}
    assert got.pop("gemma.eps") == pytest.approx(1e-6)
    listed = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in KEYS.items()}
    del listed["gemma.eps"]
    assert got == listed
    types = {name: [kind.name for kind in field.types] for name, field in fields.items()}
    assert types["gemma.block_count"] == ["UINT32"]
    assert types["gemma.eps"] == ["FLOAT32"]
    assert types["a.negative"] == ["INT32"]
    assert types["a.long"] == ["INT64"]
    assert types["a.switch"] == ["BOOL"]
    assert types["texts"] == ["ARRAY", "STRING"]
    assert types["types"] == types["wholes"] == ["ARRAY", "INT32"]
    assert types["scores"] == types["reals"] == ["ARRAY", "FLOAT32"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_reads_the_tensors(dtype, tmp_path):
    path = tmp_path / "out.gguf"
    given = {"a": array(4, 64), "b": array(2, 3, 32, seed=1), "c": array(96, seed=2)}
    given = {name: numbers.astype(GIVEN.get(dtype, "float32")) for name, numbers in given.items()}
    write_gguf(path, KEYS, [writable(name, numbers, dtype) for name, numbers in given.items()])
    tensors = gguf.GGUFReader(path).tensors
    assert [tensor.name for tensor in tensors] == list(given)
    kind = GGMLQuantizationType[
        {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(dtype, dtype.upper())
    ]
    for tensor in tensors:
        numbers = given[tensor.name]
        assert tensor.tensor_type == kind
        assert tensor.shape.tolist() == list(numbers.shape[::-1])
        expected = gguf.quants.quantize(numbers.astype("float32"), kind)
        assert tensor.data.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_floats_come_back_bit_for_bit(dtype, tmp_path):
    path = tmp_path / "out.gguf"
    numbers = array(5, 7).astype(GIVEN.get(dtype, "float32"))
    write_gguf(path, KEYS, [writable("t", numbers, dtype)])
    back = GGUFFile(path).read("t")
    assert back.dtype == numbers.dtype and back.tobytes() == numbers.tobytes()


def test_ours_reads_the_keys_that_ours_wrote(tmp_path):
    path = tmp_path / "out.gguf"
    write_gguf(path, KEYS, [])
    metadata = GGUFFile(path).metadata
    assert list(metadata) == list(KEYS)
    for key in ("general.architecture", "a.long", "a.negative", "a.switch", "a.text", "texts"):
        assert metadata[key] == KEYS[key] and type(metadata[key]) is type(KEYS[key])


def test_one_tensor_is_asked_for_after_another(tmp_path):
    """The first one's numbers are let go before the second one's are made."""
    import gc
    import weakref

    alive = []

    def numbers():
        gc.collect()
        assert not any(other() is not None for other in alive)
        made = array(64, 64)
        alive.append(weakref.ref(made))
        return made

    tensors = (Writable(f"t{i}", (64, 64), "q8_0", numbers) for i in range(4))
    write_gguf(tmp_path / "out.gguf", KEYS, tensors)
    assert len(alive) == 4


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.gguf"
    write_gguf(path, KEYS, [writable("t", array(3), "float32")])
    before = path.read_bytes()

    def fails():
        raise OSError("No space left on device")

    tensors = [writable("a", array(3), "float32"), Writable("b", (3,), "float32", fails)]
    with pytest.raises(OSError, match="No space left"):
        write_gguf(path, KEYS, tensors)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.gguf"]


BAD = {
    "type": ([writable("t", array(4), "Q6_K")], "'t' can't be written as 'Q6_K', but as one of F3"),
    "row": ([writable("t", array(4, 40), "q8_0")], r"\(4, 40\) has rows .* number of 32"),
    "long name": ([writable("n" * 64, array(4), "F32")], "1 to 63 bytes"),
    "no name": ([writable("", array(4), "F32")], "1 to 63 bytes"),
    "same name": ([writable("t", array(4), "F32")] * 2, "Two tensors have one name"),
    "scalar": ([writable("t", np.float32(1), "F32")], "1 to 4 axes"),
    "other shape": ([Writable("t", (5,), "F32", lambda: array(4))], r"is \(4,\), and \(5,\) was"),
    "overflow": ([writable("t", array(4) + 70000, "F16")], "'t' holds numbers .* over 6.55e"),
    "NaN": ([writable("t", array(32) * np.float32("nan"), "Q8_0")], "not finite .* as F32"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_not_be_stored_is_named(case, tmp_path):
    tensors, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        write_gguf(tmp_path / "out.gguf", KEYS, tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, {"a": 1}, [], ["a", 1], [[1]], 1j, 2**70])
def test_a_key_that_can_not_be_stored_is_named(value, tmp_path):
    with pytest.raises(ValueError, match="'odd' can't hold|inhomogeneous"):
        write_gguf(tmp_path / "out.gguf", {"odd": value}, [])


def test_vectors_stay_float32_and_odd_rows_float16():
    assert type_for((64,), "q4_0") == "F32"
    assert type_for((3, 48), "q4_0") == "F16"
    assert type_for((3, 64), "q4_0") == "Q4_0"
    assert type_for((3, 48), "bfloat16") == "BF16"
