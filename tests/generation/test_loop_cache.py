"""What a loop carries remembers what a cache does, and is looked at by the same formula."""

import numpy as np
import pytest
from conftest import SIZES, WINDOWED, close, once_but
from keras import ops

from keras_gemma import GemmaConfig
from keras_gemma.generation import empty_caches
from keras_gemma.generation.compiled import compiler
from keras_gemma.generation.loop_cache import carried, settled
from keras_gemma.layers import Positions

RANDOM = np.random.default_rng(2)


def config(queries, keys, **more):
    sizes = {**SIZES, "num_layers": 2, "num_query_heads": queries, "num_key_value_heads": keys}
    return GemmaConfig(**{**sizes, **more})


def steps(config, rows, tokens, count):
    """Activations for `count` steps of some tokens each, of which the last row's are not all real."""
    heads = config.num_query_heads, config.num_key_value_heads, config.num_key_value_heads
    place = np.arange(tokens)[None] + np.zeros((rows, 1), "int32")
    for step in range(count):
        arrays = [RANDOM.normal(size=(rows, tokens, n, config.head_dim)) for n in heads]
        real = np.ones((rows, tokens), "int32")
        real[-1, 1 + step % 2 :] = 0
        positions = (ops.convert_to_tensor(x, "int32") for x in (place + step * tokens, real))
        yield arrays, Positions(*positions)


@pytest.mark.parametrize(
    "heads, tokens, rows, dtype, bar",
    once_but(
        [
            ((4, 1), 1, 1, "float32", 2e-6),
            ((4, 2), 3, 1, "float32", 2e-6),
            ((3, 3), 1, 3, "float32", 2e-6),
            ((4, 1), 3, 3, "float32", 2e-6),
            ((4, 2), 1, 70, "float32", 2e-6),
            ((4, 2), 1, 1, "bfloat16", 2e-2),
        ],
        ((4, 1), 3, 3, "float32", 2e-6),
        ((4, 2), 1, 70, "float32", 2e-6),
        ((4, 2), 1, 1, "bfloat16", 2e-2),
    ),
)
def test_a_loop_sees_what_a_cache_shows(heads, tokens, rows, dtype, bar):
    made = config(*heads, **WINDOWED, attention_logit_soft_cap=20.0)
    caches = empty_caches(made, rows, 20, dtype)
    loops = carried(caches)
    program = compiler(()).program(
        lambda caches, arrays, positions: [
            cache.attend(*arrays, positions, made.attention_rules(layer))
            for layer, cache in enumerate(caches)
        ]
    )
    scale = 3 if dtype == "float32" else 1  # bfloat16 rounds large scores by tenths
    for arrays, positions in steps(made, rows, tokens, 6):
        arrays = [ops.convert_to_tensor(scale * x, dtype) for x in arrays]
        (got, loops), (expected, caches) = (
            zip(*program(held, arrays, positions)) for held in (loops, caches)
        )
        real = np.asarray(ops.convert_to_numpy(positions.segment))[..., None, None]
        for pair in zip(got, expected, strict=True):
            close(*(ops.cast(y, "float32") for y in pair), bar, where=real)
    for one, other in zip(settled(made, loops), caches, strict=True):
        for got, expected in zip(one, other, strict=True):
            pair = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (got, expected))
            np.testing.assert_array_equal(*pair)
