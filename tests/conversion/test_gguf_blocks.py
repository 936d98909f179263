"""Block formats against the reference in numpy of the `gguf` package, bit for bit."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from keras_gemma.conversion.gguf import blocks as gguf_blocks
from keras_gemma.conversion.gguf.blocks import BLOCKS, WRITTEN, dequantize, quantize

pytestmark = pytest.mark.once


def numbers(kind, rows=40, width=512):
    random = np.random.default_rng(7)
    if kind == "normal":
        array = random.normal(0, 0.05, (rows, width))
    elif kind == "many sizes":
        array = random.normal(0, 1, (rows, width)) * 10.0 ** random.integers(-12, 4, (rows, 1))
    elif kind == "ties":  # halves of the scale, where the direction of rounding shows
        array = np.round(random.uniform(-127, 127, (rows, width)) * 2) / 2
        array[:, ::32] = 127
    elif kind == "negative":
        array = -np.abs(random.normal(0, 1, (rows, width)))
    elif kind == "tiny":  # their reciprocals are infinite
        array = random.uniform(-1e-41, 1e-41, (rows, width))
    else:
        array = np.zeros((rows, width))
    return array.astype("float32")


@pytest.mark.parametrize("kind", ["normal", "many sizes", "ties", "negative", "zeros"])
@pytest.mark.parametrize("name", WRITTEN)
def test_bytes_are_those_of_the_reference_quantizer(name, kind):
    array = numbers(kind)
    expected = quants.quantize(array, GGMLQuantizationType[name])
    assert quantize(name, array).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", WRITTEN)
def test_numbers_near_nothing_are_quantized_without_a_warning(name):
    raw = quantize(name, numbers("tiny"))
    assert np.abs(dequantize(name, raw)).max() < 1e-6


@pytest.mark.parametrize("name", BLOCKS)
def test_any_bytes_give_the_numbers_of_the_reference(name):
    block = BLOCKS[name]
    raw = np.random.default_rng(1).integers(0, 256, (300, block.size), "uint8")
    with np.errstate(all="ignore"):
        expected = quants.dequantize(raw, GGMLQuantizationType[name])
    got = dequantize(name, raw.reshape(-1))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected.reshape(-1))


@pytest.mark.parametrize("name", WRITTEN)
def test_quantizing_what_was_quantized_changes_little(name):
    array = numbers("normal")
    back = dequantize(name, quantize(name, array)).reshape(array.shape)
    parts = np.abs(array).reshape(-1, 32).max(axis=1, keepdims=True)
    steps = 127 if name == "Q8_0" else 7
    assert (np.abs(back - array).reshape(-1, 32) <= parts / steps * 1.001).all()


@pytest.mark.parametrize("name", BLOCKS)
def test_chunks_give_what_one_piece_gives(name, monkeypatch):
    raw = np.random.default_rng(2).integers(0, 60, (70, BLOCKS[name].size), "uint8").reshape(-1)
    whole = dequantize(name, raw)
    monkeypatch.setattr(gguf_blocks, "CHUNK", 1024)
    np.testing.assert_array_equal(dequantize(name, raw), whole)
    if name in WRITTEN:
        small = quantize(name, numbers("normal"))
        monkeypatch.undo()
        assert small.tobytes() == quantize(name, numbers("normal")).tobytes()


def test_a_format_that_is_read_only_is_said_to_be():
    with pytest.raises(ValueError, match="Q6_K is read only; written are Q8_0, Q4_0"):
        quantize("Q6_K", numbers("zeros"))
