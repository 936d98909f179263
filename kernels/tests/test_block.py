import dataclasses

import keras_gemma_kernels as kg
import ml_dtypes
import numpy as np
import pytest
from conftest import assert_close
from examples import KINDS, SLOTS, empty_cache, example, walk

FLOAT = {"dtype": "float32"}
# A prompt in chunks, then single tokens past the end of every ring.
LENGTHS = [3, 5, 1, 1, 2, *[1] * 9]


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_agrees_with_numpy(kind, batch, isa):
    block, reference = example(kind, FLOAT)
    cache = empty_cache(block.rules, batch, SLOTS)
    for x, index, segment in walk(batch, LENGTHS):
        y, cache = kg.decoder_block(x, (index, segment), cache, block)
        assert_close(y, reference(x, index, segment), 5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_weights_give_what_their_numbers_give(kind, precision):
    block, reference = example(kind, precision)
    cache = empty_cache(block.rules, 2, SLOTS)
    for x, index, segment in walk(2, LENGTHS):
        y, cache = kg.decoder_block(x, (index, segment), cache, block)
        # An activation just between two of 127 steps may be rounded the other way.
        tolerance = 1e-2 if precision["dtype"].startswith("int") else 1e-5
        assert_close(y, reference(x, index, segment), tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_one_by_one_equal_the_whole(kind):
    block, _ = example(kind, FLOAT)
    caches = [empty_cache(block.rules, 2, SLOTS) for _ in range(2)]
    for x, index, segment in walk(2, LENGTHS):
        positions = index, segment
        whole, caches[0] = kg.decoder_block(x, positions, caches[0], block)
        x = np.where(segment[..., None] > 0, x, np.float32(0))  # as the whole takes padding
        qkv = kg.attention_inputs(x, block)
        attended, caches[1] = kg.attend(qkv, positions, caches[1], block)
        parts = kg.feed_forward(kg.attention_output(x, attended, block), block)
        np.testing.assert_array_equal(parts, whole)
    for one, other in zip(*caches, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_do_not_know_of_each_other():
    block, _ = example("gemma 2, grouped, windowed, capped", {"dtype": "int8"})
    together = empty_cache(block.rules, 5, SLOTS)
    alone = empty_cache(block.rules, 1, SLOTS)
    for x, index, segment in walk(5, LENGTHS):
        whole, together = kg.decoder_block(x, (index, segment), together, block)
        row, alone = kg.decoder_block(x[3:4], (index[3:4], segment[3:4]), alone, block)
        np.testing.assert_array_equal(whole[3:4], row)


def test_a_chunk_equals_its_tokens_one_by_one():
    block, _ = example("gemma 3, windowed", FLOAT)
    one, many = (empty_cache(block.rules, 2, SLOTS) for _ in range(2))
    for x, index, segment in walk(2, [7, 6]):
        whole, many = kg.decoder_block(x, (index, segment), many, block)
        for t in range(x.shape[1]):
            place = np.s_[:, t : t + 1]
            y, one = kg.decoder_block(x[place], (index[place], segment[place]), one, block)
            np.testing.assert_array_equal(y, whole[place])


def test_a_long_context_is_shared_among_threads(random):
    block, reference = example("gemma 1, one key head", FLOAT, slots=4000)
    cache = empty_cache(block.rules, 1, 4000)
    length = 3000
    cache[0][:, :length] = random.standard_normal((1, length, 1, 16))
    cache[1][:, :length] = random.standard_normal((1, length, 1, 16))
    cache[2][:, :length] = np.arange(length)
    cache[3][:, :length] = 1
    cache[4][:] = length
    reference.seen[0] = [
        (k, v, i, 1) for i, (k, v) in enumerate(zip(cache[0][0, :length], cache[1][0, :length]))
    ]
    x = random.standard_normal((1, 1, 48), "float32")
    position = np.array([[length]], "int32"), np.ones((1, 1), "int32")
    y, _ = kg.decoder_block(x, position, cache, block)
    assert_close(y, reference(x, *position), 5e-6)


def test_a_bfloat16_cache_costs_its_rounding_only():
    block, reference = example("gemma 2, all seen", FLOAT)
    cache = empty_cache(block.rules, 2, SLOTS, dtype=ml_dtypes.bfloat16)
    for x, index, segment in walk(2, LENGTHS):
        y, cache = kg.decoder_block(x, (index, segment), cache, block)
        assert_close(y, reference(x, index, segment), 1e-2)
    assert cache[0].dtype == ml_dtypes.bfloat16


def test_a_broken_count_of_tokens_reads_and_writes_nothing_outside(random):
    block, _ = example("gemma 1, one key head", FLOAT)
    x, index, segment = next(walk(1, [1]))
    for stored in (-(2**31), -1, 2**31 - 2):
        cache = empty_cache(block.rules, 1, SLOTS)
        cache[4][:] = stored
        y, _ = kg.decoder_block(x, (index, segment), cache, block)
        assert np.isfinite(y).all()


def test_the_head_norms_and_caps(random, isa):
    weights = random.standard_normal((300, 48), "float32")
    scale = random.standard_normal(48).astype("float32")
    x = random.standard_normal((2, 1, 48), "float32")
    normed = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * (1 + scale)
    logits = normed @ weights.T
    assert_close(kg.head(x, scale, kg.pack(weights)), logits, 2e-6)
    capped = kg.head(x, scale, kg.pack(weights), soft_cap=5.0)
    assert_close(capped, np.tanh(logits / 5) * 5, 2e-6)


def test_wrong_shapes_and_dtypes_are_told():
    block, _ = example("gemma 1, one key head", FLOAT)
    cache = empty_cache(block.rules, 1, SLOTS)
    x, index, segment = next(walk(1, [1]))
    place = index, segment

    def call(x=x, place=place, cache=cache, block=block):
        return kg.decoder_block(x, place, cache, block)

    call()
    with pytest.raises(ValueError, match="x is float64; .* cast it"):
        call(x=x.astype(float))
    with pytest.raises(ValueError, match=r"x is of shape \[1, 1, 47\], not \[..., 48\]"):
        call(x=x[..., :47])
    with pytest.raises(ValueError, match=r"not \[batch, tokens, width\]"):
        call(x=x[0])
    with pytest.raises(ValueError, match="positions' index: int64"):
        call(place=(index.astype("int64"), segment))
    with pytest.raises(ValueError, match=r"values: float32 \[1, 11, 1, 16\] came"):
        call(cache=(cache[0], cache[1][:, :11].copy(), *cache[2:]))
    with pytest.raises(ValueError, match="keys are float16"):
        call(cache=(cache[0].astype("float16"), *cache[1:]))
    with pytest.raises(ValueError, match="written in place: it must be contiguous"):
        wide = np.zeros((1, SLOTS, 1, 32), "float32")
        call(cache=(wide[..., ::2], *cache[1:]))
    with pytest.raises(ValueError, match=r"a cache \(keys"):
        call(cache=cache[:4])
    with pytest.raises(
        ValueError, match=r"down is of shape \[48, 70\], not \[70, 48\]|gate_up is of"
    ):
        call(block=dataclasses.replace(block, gate_up=block.qkv))
    with pytest.raises(ValueError, match=r"pre_ffw_norm is of shape \[16\]"):
        call(block=dataclasses.replace(block, pre_ffw_norm=np.zeros(16, "float32")))
    with pytest.raises(ValueError, match="query_norm is float64"):
        call(block=dataclasses.replace(block, query_norm=np.zeros(16)))
    with pytest.raises(ValueError, match="pre_ffw_norm must be contiguous"):
        call(block=dataclasses.replace(block, pre_ffw_norm=np.zeros(96, "float32")[::2]))
    with pytest.raises(TypeError, match="NumPy array was awaited, not list"):
        kg.linear([1.0], block.qkv)
    with pytest.raises(IndexError, match=r"0\.\.95, not 96\.\.96"):
        kg.rows(block.qkv, np.array([96], "int32"))
