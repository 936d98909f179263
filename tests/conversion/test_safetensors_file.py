"""Safetensors files, one and many: read as the library of that name reads them, and no false word believed."""

import json
import random

import ml_dtypes
import numpy as np
import pytest
from guards import within_a_second

from keras_gemma.conversion.huggingface.safetensors_file import SafetensorsTensors, open_folder
from keras_gemma.conversion.huggingface.safetensors_writer import write_safetensors
from keras_gemma.conversion.tensors import Writable
from keras_gemma.presets import BadPresetError

pytestmark = pytest.mark.once
safetensors = pytest.importorskip("safetensors.numpy")

NUMBERS = np.random.default_rng(0)


def writable(name, array):
    return Writable(name, array.shape, array.dtype.name, lambda: array)


def arrays(dtype="float32"):
    shapes = {"model.norm.weight": (6,), "model.a.weight": (4, 6), "model.b.weight": (3, 5, 2)}
    return {name: NUMBERS.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def raw(header, data=b"", length=None):
    """A file's bytes; `header` is JSON's value or its text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def record(shape=(2,), start=0, stop=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


GOOD = raw({"a": record(), "b": record((1, 2), 8, 16)}, bytes(16))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


def refused(file, content, match):
    file.write_bytes(content)
    with pytest.raises(BadPresetError, match=match) as caught:
        SafetensorsTensors(file)
    assert str(file) in str(caught.value) and len(str(caught.value)) < 1500


# --- good files ---


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint8"],
)
def test_what_the_safetensors_library_writes_is_read_bit_for_bit(file, dtype):
    given = {name: (100 * array).astype(dtype) for name, array in arrays().items()}
    given |= {"scalar": np.array(3, dtype), "empty": np.zeros((0, 4), dtype)}
    safetensors.save_file(given, file)
    tensors = SafetensorsTensors(file)
    assert set(tensors.headers()) == set(given)
    for name, array in given.items():
        assert tensors.headers()[name] == (array.shape, dtype)
        np.testing.assert_array_equal(tensors.read(name), array, strict=True)


def test_bfloat16_is_read_bit_for_bit(file):
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    given = torch.randn(7, 5).to(torch.bfloat16)
    save({"x": given}, file)
    read = SafetensorsTensors(file).read("x")
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read.view("int16"), given.view(torch.int16).numpy())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_written_the_safetensors_library_reads(tmp_path, dtype):
    given = arrays(dtype)
    kind = "np"
    if dtype == "bfloat16":
        pytest.importorskip("torch")
        kind = "pt"
    write_safetensors(tmp_path, [writable(*item) for item in given.items()])
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    with pytest.importorskip("safetensors").safe_open(tmp_path / "model.safetensors", kind) as read:
        assert read.metadata() == {"format": "pt"}
        for name, array in given.items():
            found = read.get_tensor(name)
            assert tuple(found.shape) == array.shape
            found = found.float().numpy() if kind == "pt" else found
            np.testing.assert_array_equal(found.astype("float32"), array.astype("float32"))


def test_shards_and_their_index_are_named_as_transformers_does(tmp_path):
    given = arrays()
    write_safetensors(tmp_path, [writable(*item) for item in given.items()], max_shard_bytes=130)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / names[2]).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in given.values())
    assert index["weight_map"]["model.norm.weight"] == names[0]
    tensors = open_folder(tmp_path)
    for name, array in given.items():
        np.testing.assert_array_equal(tensors.read(name), array, strict=True)


def test_one_tensor_at_a_time_is_made_when_writing(tmp_path):
    alive = []

    def numbers():
        assert not alive
        alive.append(1)
        made = np.ones((8, 8), "float32")
        alive.clear()
        return made

    write_safetensors(tmp_path, (Writable(f"{i}", (8, 8), "float32", numbers) for i in range(3)))
    assert set(open_folder(tmp_path).headers()) == {"0", "1", "2"}


def test_a_tensor_that_is_not_as_announced_is_not_written(tmp_path):
    wrong = Writable("x", (3,), "float32", lambda: np.zeros(4, "float32"))
    with pytest.raises(ValueError, match=r"x is float32 \(4,\), where float32 \(3,\)"):
        write_safetensors(tmp_path, [wrong])


def test_trailing_spaces_of_a_header_are_part_of_the_format(file):
    file.write_bytes(raw(json.dumps({"a": record()}).encode() + b"   ", bytes(8)))
    assert SafetensorsTensors(file).read("a").tolist() == [0, 0]


# --- false words ---


@pytest.mark.parametrize("kept", [0, 7, 8, 40, len(GOOD) - 1])
def test_a_cut_file_tells_how_many_bytes_it_lacks(file, kept):
    refused(
        file,
        GOOD[:kept],
        rf"\d+ bytes awaited for its header, {kept} found|{len(GOOD)} bytes awaited, {kept} found",
    )


@pytest.mark.parametrize(
    "header, data, match",
    [
        ([1], 0, "must be an object, not a list"),
        (b"", 0, "no JSON"),
        (b"\xff{}", 0, "no JSON"),
        (b'{"a":' * 5000, 0, "no JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", 0, "no JSON"),
        (json.dumps({"a": record()}).encode() + b"\0\0", 8, "no JSON"),
        (b'{"a":%s,"a":%s}' % ((json.dumps(record()).encode(),) * 2), 8, "'a' twice"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "twice"),
        ({"a": 3}, 0, "a must have dtype, shape and data_offsets"),
        ({"a": record() | {"more": 1}}, 8, "nothing else"),
        ({"a": record(dtype="F8_E4M3")}, 8, "F8_E4M3.*those read are"),
        ({"a": record(dtype=["F32"])}, 8, "dtype"),
        ({"a": record((-2,))}, 8, "whole numbers"),
        ({"a": record((True, 2))}, 8, "whole numbers"),
        ({"a": record((2.0,))}, 8, "whole numbers"),
        ({"a": record((2**62, 4))}, 8, "whole numbers"),
        ({"a": record((2**40, 2**40))}, 8, "takes .* bytes, its offsets span 8"),
        ({"a": record([1] * 10**5)}, 8, "at most 8"),
        ({"a": record((3,))}, 8, r"\(3,\) takes 12 bytes, its offsets span 8"),
        ({"a": record(start=8, stop=0)}, 8, "span -8"),
        ({"a": record(start=4, stop=12)}, 12, "leaves a gap"),
        ({"a": record(), "b": record(start=4, stop=12)}, 12, "overlaps"),
        ({"a": record()}, 12, "awaited"),
        ({"a": record()}, 4, "awaited"),
        ({"a\n": record()}, 8, "no name"),
        ({"\ud800": record()}, 8, "no name"),
        ({"a" * 10**4: record()}, 8, "no name"),
    ],
)
def test_a_header_that_is_not_so_is_told_of(file, header, data, match):
    refused(file, raw(header, bytes(data)), match)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 100_000_001])
def test_a_gigantic_header_is_refused_before_it_is_read(file, length):
    refused(file, raw({"a": record()}, bytes(8), length), "truncated or damaged")


def test_a_million_tensors_are_refused(file):
    one = b'"t%06d":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}'
    header = b"{" + b",".join(one % (i, i, i + 1) for i in range(10**6)) + b"}"
    with within_a_second():
        refused(file, raw(header, bytes(10**6)), "more than any Gemma")


def test_a_file_that_shrinks_after_it_was_looked_at_is_told_of(file):
    file.write_bytes(GOOD)
    tensors = SafetensorsTensors(file)
    file.write_bytes(GOOD[:-2])
    assert tensors.read("a").tolist() == [0, 0]
    with pytest.raises(BadPresetError, match="b has 8 bytes, and 6 are there"):
        tensors.read("b")


# --- several files ---


def sharded(folder, table, files):
    for name, content in files.items():
        (folder / name).write_bytes(raw(*content))
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path, {"weight_map": {"a": ONE, "b": TWO}}, {ONE: ({"a": record()}, bytes(8))})
    with pytest.raises(BadPresetError, match=TWO):
        open_folder(tmp_path)


def test_a_tensor_in_two_shards_is_named(tmp_path):
    both = ({"a": record()}, bytes(8))
    sharded(tmp_path, {"weight_map": {"a": ONE, "b": TWO}}, {ONE: both, TWO: both})
    with pytest.raises(BadPresetError, match=f"{TWO}: a is in {ONE}, too"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    "table, match",
    [
        ({}, "weight_map"),
        ({"weight_map": []}, "weight_map"),
        ({"weight_map": {}}, "weight_map"),
        ({"weight_map": {"a": 3}}, "no .safetensors file"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "no .safetensors file"),
        ({"weight_map": {"a": ONE, "c": ONE}}, "'c' is missing"),
        ({"weight_map": {"a": TWO, "b": ONE}}, f"a is in {ONE}, not in {TWO}"),
        ({"weight_map": {"a": "../x.safetensors"}}, "lie in the folder itself"),
        ({"weight_map": {"a": "/tmp/x.safetensors"}}, "lie in the folder itself"),
        ({"weight_map": {"a": "..\\x.safetensors"}}, "lie in the folder itself"),
        ({"weight_map": {"a": "b/x.safetensors"}}, "lie in the folder itself"),
        ({"weight_map": {"a": "x\0.safetensors"}}, "lie in the folder itself"),
    ],
)
def test_an_index_that_is_not_so_is_told_of(tmp_path, table, match):
    files = {ONE: ({"a": record()}, bytes(8)), TWO: ({"b": record()}, bytes(8))}
    sharded(tmp_path, table, files)
    with pytest.raises(BadPresetError, match=match):
        open_folder(tmp_path)


def test_an_index_beside_another_whole_file_is_no_choice_to_guess(tmp_path):
    sharded(tmp_path, {"weight_map": {"a": ONE}}, {ONE: ({"a": record()}, bytes(8))})
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    with pytest.raises(BadPresetError, match="Keep one of them"):
        open_folder(tmp_path)


def test_a_shard_that_is_a_link_out_of_the_folder_is_not_followed(tmp_path):
    folder, outside = tmp_path / "model", tmp_path / "outside.safetensors"
    folder.mkdir()
    outside.write_bytes(GOOD)
    sharded(folder, {"weight_map": {"a": ONE, "b": ONE}}, {})
    (folder / ONE).symlink_to(outside)
    with pytest.raises(BadPresetError, match="a link that leaves the folder"):
        open_folder(folder)


def test_the_links_of_the_hubs_cache_are_followed(tmp_path):
    home = tmp_path / "models--google--gemma-2b"
    folder, blobs = home / "snapshots" / "0123abcd", home / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "9f86d081").write_bytes(GOOD)
    sharded(folder, {"weight_map": {"a": ONE, "b": ONE}}, {})
    (folder / ONE).symlink_to("../../blobs/9f86d081")
    assert set(open_folder(folder).headers()) == {"a", "b"}


# --- anything at all ---


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_refused(file, count):
    good, rng = (
        raw(
            {"__metadata__": {"format": "pt"}, "a": record(), "b": record((1, 2), 8, 16)}, bytes(16)
        ),
        random.Random(count),
    )
    outcomes = set()
    for _ in range(count):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            match rng.randrange(4):
                case 0:
                    content[rng.randrange(len(content))] = rng.randrange(256)
                case 1:
                    del content[rng.randrange(len(content)) :]
                    content += bytes(1)
                case 2:
                    at = rng.randrange(len(content))
                    content[at:at] = rng.randbytes(rng.randint(1, 9))
                case 3:
                    at = rng.randrange(len(content))
                    del content[at : at + rng.randint(1, 9)]
            content = content or bytearray(1)
        file.write_bytes(content)
        try:
            tensors = SafetensorsTensors(file)
            for name, stored in tensors.headers().items():
                assert tensors.read(name).shape == stored.shape
            outcomes.add("read")
        except BadPresetError as error:
            assert len(str(error)) < 1500
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
