"""Headers that lie are refused before anything is allocated for what they tell of."""

import struct
import tracemalloc

import numpy as np
import pytest
from gguf_examples import ARRAY, TEXT, by_reference, file, key, tensor, text
from guards import within_a_second

from keras_gemma.conversion.gguf.file import GGUFFile
from keras_gemma.conversion.gguf.header import OTHER_TYPES, TYPES, block_of, read_header
from keras_gemma.presets import BadPresetError

pytestmark = pytest.mark.once

ENDLESS_ARRAY = key("a", ARRAY, struct.pack("<IQ", 4, 2**63))
HOSTILE = {
    "nothing": (b"", "needs 4 bytes"),
    "no magic": (b"PK\x03\x04" + bytes(60), "starts with"),
    "version 1": (file(version=1), "version is 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "49 bytes, 2^63 numbers": (file([ENDLESS_ARRAY])[:49], "9223372036854775808 numbers"),
    "2^63 strings": (file([key("a", ARRAY, struct.pack("<IQ", TEXT, 2**63))]), "strings of 'a'"),
    "2^63 keys": (file(key_count=2**63), "tells of 9223372036854775808 keys"),
    "2^63 tensors": (file(tensor_count=2**63), "tells of 9223372036854775808 tensors"),
    "20,000 keys": (file(key_count=20000, numbers=10**6), "room for 16384"),
    "a name of 2^64 bytes": (file([struct.pack("<Q", 2**64 - 1)], numbers=40), "name of a key"),
    "a text of 2^62 bytes": (file([key("a", TEXT, struct.pack("<Q", 2**62))]), "'a' needs"),
    "not UTF-8": (file([key("a", TEXT, text(b"\xff\xfe"))]), "not UTF-8"),
    "no name": (file([key("", 4, bytes(4))]), "no name"),
    "a key twice": (file([key("a", 4, bytes(4))] * 2), "'a' is there twice"),
    "unknown type of key": (file([key("a", 13, bytes(8))]), "unknown type, 13"),
    "array in array": (file([key("a", ARRAY, struct.pack("<IQ", 9, 1))]), "array of arrays"),
    "an alignment of 0": (
        file([key("general.alignment", 4, bytes(4))], [tensor()]),
        "alignment is 0",
    ),
    "an alignment of 2^31": (
        file([key("general.alignment", 4, struct.pack("<I", 2**31))], [tensor()]),
        "alignment",
    ),
    "an alignment that is text": (file([key("general.alignment", TEXT, text("32"))]), "alignment"),
    "one of two parts": (
        file([key("split.count", 2, struct.pack("<H", 2))]),
        "llama-gguf-split --merge",
    ),
    "parts without number": (file([key("split.count", TEXT, text("x"))]), "one part of a model"),
    "no axes": (file(tensors=[tensor(shape=())]), "has 0 axes"),
    "5 axes": (file(tensors=[tensor(shape=(1,) * 5)]), "has 5 axes"),
    "10^6 axes": (file(tensors=[tensor(axes=10**6)]), "has 1000000 axes"),
    "an axis of no length": (file(tensors=[tensor(shape=(4, 0))]), r"\(0, 4\) F32 has an axis"),
    "a product over 2^64": (file(tensors=[tensor(shape=(2**63, 4))]), "truncated"),
    "a product of 0 in 64 bits": (file(tensors=[tensor(shape=(2**32, 2**32))]), "truncated"),
    "past the end": (file(tensors=[tensor(shape=(5,))]), "ends at byte 84, and the file has 80"),
    "an offset past the end": (file(tensors=[tensor(offset=2**63)]), "begins at"),
    "an odd offset": (file(tensors=[tensor(offset=1)]), "begins at 1, where 0 was awaited"),
    "overlap": (file(tensors=[tensor("a"), tensor("b")], numbers=64), "'b'.* begins at 0"),
    "a gap": (file(tensors=[tensor("a"), tensor("b", offset=64)], numbers=99), "begins at 64"),
    "a tensor twice": (file(tensors=[tensor(), tensor(offset=32)], numbers=64), "'t' is there"),
    "half a block": (file(tensors=[tensor(shape=(48,), kind=8)], numbers=51), "no whole number"),
    "an unknown type": (file(tensors=[tensor(kind=99)]), "'t' is of type number 99"),
    "a type that is not read": (file(tensors=[tensor(kind=13)]), "of type Q5_K; read are F32"),
    "a name that never ends": (file(tensors=[tensor("n" * 10000, axes=7)]), "nnn... has 7 axes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused(case, tmp_path):
    data, message = HOSTILE[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    with within_a_second(), pytest.raises(BadPresetError, match=message) as caught:
        GGUFFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 4e6


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = by_reference(tmp_path / "whole.gguf").read_bytes()
    ends = max(t.start + t.size for t in read_header(tmp_path / "whole.gguf").tensors.values())
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 400, 7), *range(400, ends, 97), ends - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadPresetError):
            GGUFFile(path)


def test_a_large_file_of_empty_strings_costs_neither_time_nor_memory(tmp_path):
    path = tmp_path / "many.gguf"
    count = 2**22
    path.write_bytes(file([key("a", ARRAY, struct.pack("<IQ", TEXT, count))], numbers=8 * count))
    with within_a_second(), pytest.raises(BadPresetError, match="room for 1048576"):
        GGUFFile(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadPresetError, match="nowhere.gguf can't be read: No such file"):
        GGUFFile(tmp_path / "nowhere.gguf")


def mutated(data, random):
    """A copy with some bytes changed, most of them in the header, or a piece cut out or doubled."""
    data, change = bytearray(data), random.integers(10)
    if change < 8:
        for _ in range(random.integers(1, 6)):
            reach = len(data) if random.random() < 0.2 else 900
            at = random.integers(reach)
            odd = (0, 1, 0x7F, 0x80, 0xFF, random.integers(256), data[at] ^ 1 << random.integers(8))
            data[at] = odd[random.integers(len(odd))]
    elif change == 8:
        start, length = random.integers(len(data)), random.integers(1, 200)
        del data[start : start + length]
    else:
        start, length = random.integers(len(data)), random.integers(1, 200)
        data[start:start] = data[start : start + length]
    return bytes(data)


def read_all(path):
    opened = GGUFFile(path)
    for name in opened:
        assert opened.read(name).shape == opened.shape(name)


@pytest.mark.parametrize("count", [500, pytest.param(10000, marks=pytest.mark.slow)])
def test_random_mutations_are_read_or_refused(count, tmp_path):
    whole = by_reference(tmp_path / "whole.gguf").read_bytes()
    random, refused, path = np.random.default_rng(count), 0, tmp_path / "mutated.gguf"
    for number in range(count):
        path.write_bytes(mutated(whole, random))
        try:
            with within_a_second(f"mutation {number}"):
                read_all(path)
        except BadPresetError:
            refused += 1
    assert count * 0.2 < refused < count * 0.95  # neither all nor none: the mutations are of use


def test_types_and_sizes_are_those_of_the_reference():
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    both = TYPES | OTHER_TYPES
    assert both == {kind.value: kind.name for kind in GGMLQuantizationType}
    for name in TYPES.values():
        assert block_of(name) == GGML_QUANT_SIZES[GGMLQuantizationType[name]]
