"""What a layer remembers of the tokens before: their keys and values.

B batch, T new tokens, S slots, K key heads, H head width.
"""

import bisect
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (so that NumPy knows "bfloat16")
import numpy as np
from keras import ops

from keras_gemma.config import AttentionRules, GemmaConfig
from keras_gemma.generation import ring
from keras_gemma.layers import Positions, attend
from keras_gemma.out_of_memory import OutOfMemoryError

# What a ring holds beyond its window. That many tokens can be taken back, and one more read at once,
# before anything that a query may look at is overwritten.
SLACK = 8


class KVCache(NamedTuple):
    """Keys and values of a layer's last S tokens, each row a ring of its own.

    Padding takes no slot. A layer that sees all gets as many slots as there will ever be tokens,
    so that nothing is overwritten; a windowed layer needs little more than its window.
    """

    keys: Any  # BSKH
    values: Any  # BSKH
    index: Any  # int32 BS, place in the document
    segment: Any  # int32 BS, the document; -1: the slot is empty
    stored: Any  # int32 B, tokens written so far

    def attend(self, q_BTNH, k_BTKH, v_BTKH, positions: Positions, rules: AttentionRules):
        """Add new tokens, and let them look at all. This cache itself may be written to.

        `(what they see BTNH, the cache that remembers them)`.
        """
        keys, values, seen, cache = self.extend(k_BTKH, v_BTKH, positions)
        return attend(q_BTNH, keys, values, positions, seen, rules), cache

    def extend(self, keys_BTKH, values_BTKH, positions: Positions):
        """Add new tokens. Returns what they attend to, and the cache that remembers them.

        `(keys, values, Positions of those, cache)`.
        """
        return _extended(self, keys_BTKH, values_BTKH, positions)

    def packed(self, keys, values):
        """Keys and values as they are kept."""
        return ops.cast(keys, self.keys.dtype), ops.cast(values, self.values.dtype)

    def unpacked(self, dtype):
        """All keys and values that are kept, as attention reads them."""
        return ops.cast(self.keys, dtype), ops.cast(self.values, dtype)


class Int8KVCache(NamedTuple):
    """`KVCache` in a quarter of float32's memory: whole numbers, and a scale per token and head."""

    keys: Any  # int8 BSKH
    values: Any  # int8 BSKH
    key_scales: Any  # float32 BSK1
    value_scales: Any  # float32 BSK1
    index: Any
    segment: Any
    stored: Any

    attend, extend = KVCache.attend, KVCache.extend

    def packed(self, keys, values):
        (keys, key_scales), (values, value_scales) = _rounded(keys), _rounded(values)
        return keys, values, key_scales, value_scales

    def unpacked(self, dtype):
        pairs = (self.keys, self.key_scales), (self.values, self.value_scales)
        return tuple(
            ops.cast(ops.cast(whole, "float32") * scales, dtype) for whole, scales in pairs
        )


class FreshCache(NamedTuple):
    """A cache that is known to be empty: the first tokens have only each other to look at."""

    cache: Any

    attend = KVCache.attend

    def extend(self, keys_BTKH, values_BTKH, positions: Positions):
        parts = self.cache.packed(keys_BTKH, values_BTKH)
        kept = _with(self.cache, parts, positions)
        # As they will be remembered, so that it doesn't matter where a prompt is cut in two.
        seen = type(self.cache)(*parts, *positions, kept.stored)
        return *seen.unpacked(keys_BTKH.dtype), positions, kept


def _extended(cache, keys_BTKH, values_BTKH, positions):
    parts, seen = cache.packed(keys_BTKH, values_BTKH), None
    if keys_BTKH.shape[1] > SLACK + 1:
        # The first of many may still need a slot that the last will take, maybe in place.
        both = [ops.concatenate(pair, axis=1) for pair in zip(cache[:-1], (*parts, *positions))]
        seen = type(cache)(*both, cache.stored)
    kept = _with(cache, parts, positions)
    seen = seen or kept
    return *seen.unpacked(keys_BTKH.dtype), Positions(seen.index, seen.segment), kept


def _with(cache, parts, positions):
    arrays, stored_B = ring.added(
        cache[:-1], (*parts, *positions), cache.stored, positions.segment > 0
    )
    return type(cache)(*arrays, stored_B)


def _rounded(x_BTKH):
    """`(int8 BTKH, scales BTK1)`, the largest of each head at 127."""
    x_BTKH = ops.cast(x_BTKH, "float32")
    scales_BTK1 = ops.max(ops.abs(x_BTKH), axis=-1, keepdims=True) / 127
    whole_BTKH = ops.round(x_BTKH / ops.maximum(scales_BTK1, 1e-30))
    return ops.cast(whole_BTKH, "int8"), scales_BTK1


# --- the caches of all layers ---

KINDS = ("full", "int8")


def empty_caches(
    config: GemmaConfig, batch: int, slots: int, dtype: str, kind: str = "full"
) -> tuple[Any, ...]:
    """One empty cache per layer: `slots` tokens, or a window and a little where that is shorter."""

    def empty(rules):
        size = slots if rules.window is None else min(slots, rules.window + SLACK)
        shape = (batch, size, rules.num_key_value_heads, rules.head_dim)
        places = (
            ops.zeros((batch, size), "int32"),
            ops.full((batch, size), -1, dtype="int32"),
            ops.zeros((batch,), "int32"),
        )
        if kind == "full":
            return KVCache(ops.zeros(shape, dtype), ops.zeros(shape, dtype), *places)
        whole, scales = (shape, "int8"), ((*shape[:-1], 1), "float32")
        return Int8KVCache(*(ops.zeros(*made) for made in (whole, whole, scales, scales)), *places)

    return tuple(empty(config.attention_rules(layer)) for layer in range(config.num_layers))


def check_memory(
    config: GemmaConfig, batch: int, slots: int, dtype: str, kind: str, memory: int | None
) -> None:
    """An error where caches of so many tokens would not fit into `memory` bytes at all."""

    def size(slots):
        total = 0
        for layer in range(config.num_layers):
            rules = config.attention_rules(layer)
            tokens = slots if rules.window is None else min(slots, rules.window + SLACK)
            scales = 4 if kind == "int8" else 0
            width = np.dtype("int8" if kind == "int8" else dtype).itemsize
            head = 2 * (rules.head_dim * width + scales)
            total += tokens * (rules.num_key_value_heads * head + 2 * 4)
        return total * batch

    if memory is None or size(slots) <= memory:
        return
    fits = bisect.bisect_right(range(slots), memory, key=size) - 1
    raise OutOfMemoryError(
        f"Keys and values of {batch} texts of {slots} tokens take {size(slots) / 1e9:.1f} GB, and "
        f"the device has {memory / 1e9:.1f} GB in all: texts of {fits} tokens would fit. Lower "
        'max_length or max_new_tokens, ask for fewer texts at once, or compile(cache="int8").'
    )


def capacity(config: GemmaConfig, caches: tuple) -> int | None:
    """Tokens that every layer can hold as it must; `None` where all layers are rings by now."""
    sizes = []
    for layer, cache in enumerate(caches):
        window, slots = config.attention_rules(layer).window, cache.segment.shape[1]
        if window is None or slots < window + SLACK:
            sizes.append(slots)
    return min(sizes, default=None)


def stored(caches: tuple) -> int:
    """Tokens that caches of one text hold."""
    return int(np.asarray(ops.convert_to_numpy(caches[0].stored))[0])


def grown(config: GemmaConfig, caches: tuple, slots: int) -> tuple:
    """The same caches with room for `slots` tokens. None of them may have gone round yet."""

    def one(layer, cache):
        window = config.attention_rules(layer).window
        wanted = slots if window is None else min(slots, window + SLACK)
        more = wanted - cache.segment.shape[1]
        if more <= 0:
            return cache

        def padded(x, value):
            width = [[0, 0], [0, more], *([0, 0] for _ in x.shape[2:])]
            return ops.pad(x, width, constant_values=value)

        *parts, segment, stored = cache
        return type(cache)(*(padded(x, 0) for x in parts), padded(segment, -1), stored)

    return tuple(one(*pair) for pair in enumerate(caches))


def truncated(caches: tuple, count_B: Any) -> tuple:
    """The caches as they were when only the first `count_B` tokens of each row were stored.

    A ring must not have lost what those tokens look at: see `reaches_back`.
    """

    def one(cache):
        number_BS = ring.numbers(cache.stored[:, None] - 1, cache.segment.shape[1])
        segment_BS = ops.where(number_BS < count_B[:, None], cache.segment, -1)
        stored_B = ops.minimum(cache.stored, count_B)
        return cache._replace(segment=segment_BS, stored=stored_B)

    return tuple(one(cache) for cache in caches)


def reaches_back(config: GemmaConfig, caches: tuple, stored: int, count: int) -> bool:
    """Whether caches that hold `stored` tokens still know all that the first `count` need."""
    for layer, cache in enumerate(caches):
        window, slots = config.attention_rules(layer).window, cache.segment.shape[1]
        oldest = max(0, stored - slots)
        needed = 0 if window is None else max(0, count - window + 1)
        if oldest > needed:
            return False
    return True


def each(caches: tuple, change: Callable[[Any], Any]) -> tuple:
    """Every array of every cache, changed."""
    return tuple(type(cache)(*map(change, cache)) for cache in caches)
