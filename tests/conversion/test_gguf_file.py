"""Reading and writing GGUF, against the `gguf` package in both directions."""

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf_examples import array, by_reference, file, tensor

from keras_gemma.conversion.gguf import blocks as gguf_blocks
from keras_gemma.conversion.gguf.file import GGUFFile
from keras_gemma.presets import BadPresetError

pytestmark = pytest.mark.once


@pytest.fixture
def example(tmp_path):
    return by_reference(tmp_path / "example.gguf")


def test_keys_have_the_values_that_the_reference_wrote(example):
    metadata = GGUFFile(example).metadata
    arrays = {key: value for key, value in metadata.items() if isinstance(value, np.ndarray)}
    assert {key: value.tolist() for key, value in arrays.items()} == {
        "reals": [0.5, 1.5],
        "wholes": [1, -2, 3],
        "switches": [True, False],
    }
    assert {key: value for key, value in metadata.items() if key not in arrays} == {
        "general.architecture": "gemma",
        "gemma.block_count": 2,
        "gemma.attention.layer_norm_rms_epsilon": float(np.float32(1e-6)),
        "a.switch": True,
        "an.int": -5,
        "a.long": 2**40,
        "a.double": 0.1,
        "a.text": "é\n",
        "texts": ["a", "", "▁b"],
    }


def test_tensors_are_those_that_the_reference_reads(example):
    reference, opened = gguf.GGUFReader(example), GGUFFile(example)
    assert list(opened) == [tensor.name for tensor in reference.tensors]
    for expected in reference.tensors:
        numbers = opened.read(expected.name)
        kind = expected.tensor_type
        assert opened.type_name(expected.name) == kind.name
        assert opened.shape(expected.name) == tuple(int(n) for n in expected.shape[::-1])
        with np.errstate(all="ignore"):
            decoded = gguf.quants.dequantize(np.asarray(expected.data), kind)
        np.testing.assert_array_equal(numbers.astype("float32"), decoded.reshape(numbers.shape))


def test_floats_keep_their_type_and_blocks_become_float32(example):
    opened = GGUFFile(example)
    assert opened.read("full").dtype == np.float32
    assert opened.read("half").dtype == np.float16
    assert opened.read("BF16").dtype == ml_dtypes.bfloat16
    assert opened.read("Q4_K").dtype == np.float32
    found = {name: stored.dtype for name, stored in opened.headers().items()}
    assert found["BF16"] == "bfloat16" and found["Q4_K"] == "Q4_K" and found["full"] == "float32"


def test_a_tensor_is_read_in_chunks_of_the_file(example, monkeypatch):
    whole = {name: GGUFFile(example).read(name) for name in ("Q8_0", "Q6_K")}
    monkeypatch.setattr(gguf_blocks, "CHUNK", 256)
    for name, expected in whole.items():
        np.testing.assert_array_equal(GGUFFile(example).read(name), expected)


def test_only_one_tensor_is_in_memory(tmp_path):
    import tracemalloc

    count, rows = 8, 2**17  # 8 tensors of 2 MiB in Q8_0 and 16 MiB in F32 are 2.2 MB on disk each
    size = rows * 32 // 32 * 34
    headers = [tensor(f"t{i}", (32, rows), 8, i * size) for i in range(count)]
    path = tmp_path / "large.gguf"
    path.write_bytes(file(tensors=headers, numbers=count * size))
    opened = GGUFFile(path)
    tracemalloc.start()
    for name in opened:
        assert opened.read(name).nbytes == 4 * 32 * rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * 4 * 32 * rows


def test_version_2_is_read(tmp_path):
    path = tmp_path / "two.gguf"
    path.write_bytes(file(tensors=[tensor(shape=(2, 2))], version=2))
    assert GGUFFile(path).read("t").tolist() == [[0, 0], [0, 0]]


def test_an_unknown_tensor_is_named(example):
    with pytest.raises(BadPresetError, match="example.gguf has no tensor 'nothing'"):
        GGUFFile(example).read("nothing")


@pytest.mark.parametrize("name", ["full", "Q6_K"])
def test_a_file_cut_after_it_was_opened_is_refused(example, name):
    opened = GGUFFile(example)
    with example.open("r+b") as handle:
        handle.truncate(opened._tensors[name].start + 3)
    with pytest.raises(BadPresetError, match=f"ends within the tensor '{name}'"):
        opened.read(name)


def test_axes_come_in_the_order_of_numpy(tmp_path):
    path = tmp_path / "axes.gguf"
    writer = gguf.GGUFWriter(path, "gemma")
    numbers = array(2, 3, 4)
    writer.add_tensor("t", numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.testing.assert_array_equal(GGUFFile(path).read("t"), numbers)
