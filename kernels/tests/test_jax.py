import dataclasses
import functools

import keras_gemma_kernels as kg
import ml_dtypes
import numpy as np
import pytest
from conftest import assert_close
from examples import KINDS, SLOTS, empty_cache, example, walk

jax = pytest.importorskip("jax")
jnp = jax.numpy

FLOAT = {"dtype": "float32"}
LENGTHS = [3, 5, 1, 1, 2, *[1] * 9]


def test_packed_weights_are_not_copied(random):
    weights = random.standard_normal((64, 64), "float32")
    packed = kg.pack(jnp.asarray(weights), "int8")
    assert isinstance(packed.data, jax.Array)
    np.testing.assert_array_equal(packed.data, kg.pack(weights, "int8").data)


def test_products_and_rows_equal_those_of_numpy(precision, random):
    weights, x = (random.standard_normal(shape, "float32") for shape in ((70, 37), (3, 37)))
    packed, plain = kg.pack(jnp.asarray(weights), **precision), kg.pack(weights, **precision)
    x_jax, ids = jnp.asarray(x), jnp.asarray([[3, 69], [0, 3]])
    for call in (kg.linear, jax.jit(kg.linear)):
        np.testing.assert_array_equal(call(x_jax, packed), kg.linear(x, plain))
    np.testing.assert_array_equal(jax.jit(kg.rows)(packed, ids), kg.rows(plain, np.asarray(ids)))


def test_large_products_run_on_xla_threads(precision, random):
    weights, x = (random.standard_normal(shape, "float32") for shape in ((5000, 640), (2, 640)))
    packed = kg.pack(weights, **precision)
    assert_close(jax.jit(kg.linear)(jnp.asarray(x), packed), kg.linear(x, packed), 1e-6)


def test_vmap_gives_what_a_loop_gives(random):
    packed = kg.pack(jnp.asarray(random.standard_normal((40, 24), "float32")), "bfloat16")
    x = jnp.asarray(random.standard_normal((3, 2, 24), "float32"))
    mapped = jax.vmap(kg.linear, in_axes=(0, None))(x, packed)
    np.testing.assert_array_equal(mapped, kg.linear(x, packed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_jitted_block_equals_that_of_numpy(kind, precision):
    block, _ = example(kind, precision, array=jnp.asarray)
    plain, _ = example(kind, precision)
    cache, plain_cache = (
        empty_cache(block.rules, 3, SLOTS, array) for array in (jnp.asarray, np.asarray)
    )
    step = jax.jit(kg.decoder_block, donate_argnums=2)
    for x, index, segment in walk(3, LENGTHS):
        y, cache = step(jnp.asarray(x), (jnp.asarray(index), jnp.asarray(segment)), cache, block)
        awaited, plain_cache = kg.decoder_block(x, (index, segment), plain_cache, plain)
        np.testing.assert_array_equal(y, awaited)
    for part, plain_part in zip(cache, plain_cache, strict=True):
        np.testing.assert_array_equal(part, plain_part)


def test_steps_one_by_one_equal_the_whole():
    block, _ = example("gemma 3, windowed", FLOAT, array=jnp.asarray)
    cache = empty_cache(block.rules, 2, SLOTS, jnp.asarray)

    @jax.jit
    def parts(x, positions, cache):
        attended, cache = kg.attend(kg.attention_inputs(x, block), positions, cache, block)
        return kg.feed_forward(kg.attention_output(x, attended, block), block), cache

    for x, index, segment in walk(2, [3, 1]):
        x = np.where(segment[..., None] > 0, x, np.float32(0))  # as the whole takes padding
        arguments = jnp.asarray(x), (jnp.asarray(index), jnp.asarray(segment)), cache
        whole, kept = kg.decoder_block(*arguments, block)
        y, cache = parts(*arguments)
        np.testing.assert_array_equal(y, whole)
        jax.tree.map(np.testing.assert_array_equal, cache, kept)


def test_a_cache_that_is_not_donated_stays_as_it_was():
    block, _ = example("gemma 1, one key head", FLOAT, array=jnp.asarray)
    cache = empty_cache(block.rules, 1, SLOTS, jnp.asarray)
    x, index, segment = map(jnp.asarray, next(walk(1, [2])))
    _, kept = jax.jit(kg.decoder_block)(x, (index, segment), cache, block)
    assert not cache[0].any() and kept[0].any()


@functools.partial(jax.jit, donate_argnums=2, static_argnums=3)
def loop(block, x, cache, steps):
    """`steps` tokens, each made of the one before, with the cache carried through."""

    def body(state):
        i, x, cache = state
        place = jnp.full((1, 1), i, jnp.int32), jnp.ones((1, 1), jnp.int32)
        x, cache = kg.decoder_block(x, place, cache, block)
        return i + 1, x / 2, cache

    return jax.lax.while_loop(lambda state: state[0] < steps, body, (0, x, cache))


def test_a_compiled_loop_gives_what_single_calls_give(precision):
    block, _ = example("gemma 2, grouped, windowed, capped", precision, array=jnp.asarray)
    plain, _ = example("gemma 2, grouped, windowed, capped", precision)
    x = np.ones((1, 1, 48), "float32")
    _, y, cache = loop(block, jnp.asarray(x), empty_cache(block.rules, 1, SLOTS, jnp.asarray), 9)
    plain_cache = empty_cache(block.rules, 1, SLOTS)
    for i in range(9):
        place = np.full((1, 1), i, "int32"), np.ones((1, 1), "int32")
        x, plain_cache = kg.decoder_block(x, place, plain_cache, plain)
        x = x / 2
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(cache[0], plain_cache[0])


def test_a_loop_writes_its_donated_cache_in_place():
    block, _ = example("gemma 1, one key head", FLOAT, array=jnp.asarray)
    cache = empty_cache(block.rules, 1, 4096, jnp.asarray)
    one_cache = cache[0].nbytes
    x = jnp.ones((1, 1, 48))
    memory = loop.lower(block, x, cache, 5).compile().memory_analysis()
    assert memory.temp_size_in_bytes < one_cache // 4
    before = cache[0].unsafe_buffer_pointer()
    _, _, cache = loop(block, x, cache, 5)
    assert cache[0].unsafe_buffer_pointer() == before


def test_a_bfloat16_cache_is_taken(random):
    block, reference = example("gemma 1, one key head", FLOAT, array=jnp.asarray)
    cache = empty_cache(block.rules, 1, SLOTS, jnp.asarray, ml_dtypes.bfloat16)
    for x, index, segment in walk(1, LENGTHS):
        positions = jnp.asarray(index), jnp.asarray(segment)
        y, cache = jax.jit(kg.decoder_block)(jnp.asarray(x), positions, cache, block)
        assert_close(y, reference(x, index, segment), 1e-2)


def test_bad_input_is_an_error_of_python():
    block, _ = example("gemma 1, one key head", FLOAT, array=jnp.asarray)
    cache = empty_cache(block.rules, 1, SLOTS, jnp.asarray)
    x, index, segment = map(jnp.asarray, next(walk(1, [1])))
    positions = index, segment
    with pytest.raises(ValueError, match="x is bfloat16; .* cast it"):
        kg.linear(x.astype("bfloat16"), block.qkv)
    with pytest.raises(ValueError, match=r"not \[..., 48\]"):
        jax.jit(kg.linear)(x[..., :40], block.qkv)
    with pytest.raises(ValueError, match="not what pack made"):
        kg.linear(x, dataclasses.replace(block.qkv, data=block.qkv.data[:, :-1]))
    with pytest.raises(ValueError, match="stored: int32"):
        kg.decoder_block(x, positions, (*cache[:4], jnp.zeros(2, "int32")), block)
    with pytest.raises(ValueError, match=r"y is of shape"):
        kg.attention_output(x, x, block)
    with pytest.raises(ValueError, match="whole numbers, not float32"):
        kg.rows(block.qkv, jnp.ones(2))
    with pytest.raises(jax.errors.JaxRuntimeError, match="an id is out of range"):
        jax.block_until_ready(kg.rows(block.qkv, jnp.asarray([96])))
