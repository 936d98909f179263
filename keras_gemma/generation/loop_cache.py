"""Keys and values as a loop carries them on a CPU.

XLA writes a token into an array in place if what reads that array afterwards is a product with it, or a
loop. A change of shape on the way (which costs nothing by itself) it does together with the writing, a
second time, into a copy: of a cache of 1,024 slots that is three quarters of attention's time. So heads
lie side by side here, and the only row of a batch is a matrix. PyTorch has a tenth fewer operations to start, too.

B batch, T new tokens, S slots, K key heads, H head width, N query heads, W = K * H, M = N * T.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gemma.config import AttentionRules, GemmaConfig
from keras_gemma.generation import ring
from keras_gemma.generation.kv_cache import KVCache
from keras_gemma.layers import Positions, visible
from keras_gemma.layers.attend import weights_of


class LoopCache(NamedTuple):
    """`KVCache` within a loop that adds a few tokens at once."""

    keys: Any  # BSW, or SW if B is 1
    values: Any  # likewise
    index: Any
    segment: Any
    stored: Any

    def attend(self, q_BTNH, k_BTKH, v_BTKH, positions: Positions, rules: AttentionRules):
        """As `KVCache.attend`."""
        flat = [ops.reshape(x, (*x.shape[:2], -1)) for x in (k_BTKH, v_BTKH)]
        new = [ops.cast(x, self.keys.dtype) for x in flat]
        real_BT = positions.segment > 0
        arrays, stored_B = ring.added(self[:-1], (*new, *positions), self.stored, real_BT)
        cache = LoopCache(*arrays, stored_B)
        seen_BTS = visible(positions, Positions(cache.index, cache.segment), rules.window)
        if q_BTNH.shape[0] == 1:
            y_TNH = _attend(q_BTNH[0], cache.keys, cache.values, seen_BTS[0], rules)
            return y_TNH[None], cache
        rows = q_BTNH, cache.keys, cache.values, seen_BTS
        return ops.map(lambda row: _attend(*row, rules), rows), cache


def carried(caches: tuple[KVCache, ...]) -> tuple[LoopCache, ...]:
    """Caches as a loop is to carry them."""

    def one(cache):
        rows, slots = cache.segment.shape
        shape = (slots, -1) if rows == 1 else (rows, slots, -1)
        return LoopCache(*(ops.reshape(x, shape) for x in cache[:2]), *cache[2:])

    return tuple(map(one, caches))


def settled(config: GemmaConfig, caches: tuple[LoopCache, ...]) -> tuple[KVCache, ...]:
    """What a loop carried, as it was before."""

    def one(layer, cache):
        rules = config.attention_rules(layer)
        shape = (*cache.segment.shape, rules.num_key_value_heads, rules.head_dim)
        return KVCache(*(ops.reshape(x, shape) for x in cache[:2]), *cache[2:])

    return tuple(one(*pair) for pair in enumerate(caches))


def _attend(q_TNH, k_SW, v_SW, seen_TS, rules):
    """The formula for one text."""
    tokens, queries, width = q_TNH.shape
    q_NTH = ops.transpose(q_TNH * ops.cast(rules.scale, q_TNH.dtype), (1, 0, 2))
    # Keys come first in the product, so that they needn't be transposed.
    q_WM = ops.transpose(_spread(q_NTH, rules))
    scores_SM = ops.cast(ops.matmul(ops.cast(k_SW, q_TNH.dtype), q_WM), "float32")
    scores_NTS = ops.reshape(ops.transpose(scores_SM), (queries, tokens, -1))
    weights_NTS = weights_of(scores_NTS, seen_TS, rules, q_TNH.dtype)
    weights_MS = ops.reshape(weights_NTS, (queries * tokens, -1))
    y_MW = ops.matmul(weights_MS, ops.cast(v_SW, q_TNH.dtype))
    y_NTH = _gathered(y_MW, (queries, tokens, width), rules)
    return ops.transpose(y_NTH, (1, 0, 2))


def _spread(q_NTH, rules):
    """Each query where its key head lies, MW, and zeros elsewhere.

    Products with zeros cost less than to bring keys into another order.
    """
    if rules.num_key_value_heads == 1:
        return ops.reshape(q_NTH, (-1, rules.head_dim))
    wide_NTKH = q_NTH[:, :, None] * _own_head(rules, q_NTH.dtype)
    return ops.reshape(wide_NTKH, (-1, rules.num_key_value_heads * rules.head_dim))


def _gathered(y_MW, shape, rules):
    """Of the sums over all heads, MW, those over a query's own."""
    if rules.num_key_value_heads == 1:
        return ops.reshape(y_MW, shape)
    y_NTKH = ops.reshape(y_MW, (*shape[:2], rules.num_key_value_heads, rules.head_dim))
    return ops.sum(y_NTKH * _own_head(rules, y_MW.dtype), axis=2)


def _own_head(rules, dtype):
    """N1K1: 1 for the key head that serves a query head."""
    groups = rules.num_query_heads // rules.num_key_value_heads
    own_NK = np.repeat(np.eye(rules.num_key_value_heads), groups, axis=0)
    return ops.convert_to_tensor(own_NK[:, None, :, None], dtype)
