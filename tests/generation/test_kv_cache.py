"""A cache changes how much is computed, never what comes out."""

import dataclasses

import numpy as np
import pytest
from conftest import SIZES, WINDOWED, close, loud, once_but
from keras import ops

from keras_gemma import GemmaBackbone
from keras_gemma.generation import empty_caches
from keras_gemma.generation.compiled import compiler
from keras_gemma.generation.kv_cache import SLACK
from keras_gemma.layers import Positions

LENGTHS = [3, 27]  # one row shorter than the window of 4, one that goes round in its ring
BUCKET = 32


class Stack:
    """A decoder stack whose forward pass is compiled once per shape."""

    def __init__(self, backbone):
        self.config = backbone.stack.config
        forward = compiler(backbone.variables).program(
            lambda caches, ids, positions: backbone.stack.hidden_states(ids, positions, caches)
        )
        self.hidden_states = lambda ids, positions, caches=(): forward(
            caches, ops.convert_to_tensor(ids, "int32"), Positions(*map(tensor, positions))
        )


def tensor(x):
    return ops.convert_to_tensor(x, "int32")


@pytest.fixture(scope="module")
def stack():
    return Stack(loud(GemmaBackbone(**SIZES, **WINDOWED, use_post_attention_norm=True)))


def whole(stack, ids):
    """Hidden states of one text, all at once; padded, so that all texts have one shape."""
    row, index = np.zeros((1, 2 * BUCKET), "int32"), np.arange(2 * BUCKET)[None]
    row[0, : len(ids)] = ids
    positions = Positions(index, (index < len(ids)).astype("int32"))
    return ops.convert_to_numpy(stack.hidden_states(row, positions)[0])[0, : len(ids)]


def texts(extra):
    random = np.random.default_rng(1)
    return [random.integers(1, 96, length + extra).tolist() for length in LENGTHS]


def chunked(stack, prompts, caches, size, left=False):
    """Read ragged prompts in chunks of `size`; returns each row's hidden states and the caches."""
    ids = np.zeros((len(prompts), BUCKET), "int32")
    index, segment = np.zeros_like(ids), np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(BUCKET - len(prompt), None) if left else slice(len(prompt))
        ids[row, place], segment[row, place] = prompt, 1
        index[row, place] = range(len(prompt))
    states = []
    for start in range(0, BUCKET, size):
        part = slice(start, start + size)
        hidden, caches = stack.hidden_states(
            ids[:, part], Positions(index[:, part], segment[:, part]), caches
        )
        states.append(ops.convert_to_numpy(hidden))
    states = np.concatenate(states, axis=1)
    return [row[real > 0] for row, real in zip(states, segment)], caches


@pytest.mark.parametrize("left", [False, True], ids=["right-padded", "left-padded"])
@pytest.mark.parametrize("size", once_but([1, 4, SLACK + 1, SLACK + 2, BUCKET], 4, SLACK + 1))
def test_chunks_then_single_tokens_equal_the_whole_text(stack, size, left):
    extra = 6
    both = texts(extra)
    caches = empty_caches(stack.config, 2, BUCKET + extra, "float32")
    states, caches = chunked(stack, [text[:-extra] for text in both], caches, size, left)
    for step in range(extra):
        places = [length + step for length in LENGTHS]
        newest = np.array([[text[place]] for text, place in zip(both, places)])
        position = Positions(np.array(places)[:, None], np.ones((2, 1), "int32"))
        hidden, caches = stack.hidden_states(newest, position, caches)
        states = [
            np.concatenate([row, ops.convert_to_numpy(new)]) for row, new in zip(states, hidden)
        ]
    for row, text in zip(states, both):
        close(row, whole(stack, text))


def test_a_ring_remembers_what_a_full_cache_shows(stack):
    prompts = texts(0)
    ring = empty_caches(stack.config, 2, 40, "float32")
    assert [cache.keys.shape[1] for cache in ring] == [4 + SLACK, 40]
    unwindowed = dataclasses.replace(stack.config, use_sliding_window_attention=False)
    full = empty_caches(unwindowed, 2, 40, "float32")
    from_ring, _ = chunked(stack, prompts, ring, 5)
    from_full, _ = chunked(stack, prompts, full, 5)
    for a, b in zip(from_ring, from_full):
        close(a, b)


def test_padding_takes_no_slot(stack):
    caches = empty_caches(stack.config, 2, 32, "float32")
    _, caches = chunked(stack, texts(0), caches, 3)
    for cache in caches:
        assert ops.convert_to_numpy(cache.stored).tolist() == LENGTHS
        assert set(np.unique(ops.convert_to_numpy(cache.segment))) <= {-1, 1}
