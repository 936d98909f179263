"""Attention: the formula in plain operations, and a device's own kernel where it has one.

B batch, T queries, S keys, K key heads, G queries a key head serves, N = K * G, H head width.
"""

import keras
from keras import ops

from keras_gemma.arrays import fuses_attention, runs_splash
from keras_gemma.config import AttentionRules
from keras_gemma.layers.positions import Positions, visible
from keras_gemma.layers.splash import fits_splash, splash

# Far below any score, yet finite: a row in which nothing is visible gives a mean, never NaN.
_UNSEEN = -1e30
# Texts longer than this are looked at in so many parts, or fewer: more parts save little more, and make longer programs.
_BLOCK, _PARTS = 128, 4


def soft_capped(x, cap: float):
    """Numbers kept between -cap and cap, hardly changed where they are small (Gemma 2)."""
    return ops.tanh(x / cap) * cap


def attend(
    q_BTNH, k_BSKH, v_BSKH, queries: Positions, keys: Positions, rules: AttentionRules, drop=None
):
    """For each query the values of the visible keys, weighted by a softmax of the scores.

    `drop`, if given, is applied to the weights (dropout while training). Returns BTNH.
    `keras.config.disable_flash_attention()` leaves all of it to the formula.
    """
    tokens, is_wanted = q_BTNH.shape[1], keras.config.is_flash_attention_enabled() is not False
    # One query has no scores to save, and no kernel drops any.
    if tokens != 1 and drop is None and is_wanted:
        if rules.soft_cap is None and fuses_attention():
            return fused(q_BTNH, k_BSKH, v_BSKH, queries, keys, rules)
        if queries is keys and runs_splash() and fits_splash(tokens, rules):
            return splash(q_BTNH, k_BSKH, v_BSKH, queries.segment, rules)
    if queries is keys and isinstance(tokens, int) and tokens > _BLOCK:
        return in_blocks(q_BTNH, k_BSKH, v_BSKH, queries, rules, drop)
    return formula(q_BTNH, k_BSKH, v_BSKH, queries, keys, rules, drop)


def in_blocks(q_BTNH, k_BTKH, v_BTKH, positions, rules, drop=None):
    """The formula for tokens that look at themselves: none of them sees one that comes later."""
    length = q_BTNH.shape[1]
    block = max(_BLOCK, -(-length // _PARTS))
    starts = [*range(0, length, block)]

    def part(start, q_BTNH):
        end = start + block if start + block < length else None
        queries = Positions(*(x_BT[:, start:end] for x_BT in positions))
        keys = Positions(*(x_BT[:, :end] for x_BT in positions))
        k, v = (x[:, :end] if end else x for x in (k_BTKH, v_BTKH))
        return formula(q_BTNH, k, v, queries, keys, rules, drop)

    # A slice's gradient is an array as large as the whole: these are split, and what is all is not sliced.
    parts = zip(starts, ops.split(q_BTNH, starts[1:], axis=1))
    return ops.concatenate([part(start, q) for start, q in parts], axis=1)


def weights_of(scores, seen, rules: AttentionRules, dtype):
    """What is made of float32 scores …S: how much of each key's value a query takes."""
    if rules.soft_cap is not None:  # before the mask, or the mask would be capped too
        scores = soft_capped(scores, rules.soft_cap)
    return ops.cast(ops.softmax(ops.where(seen, scores, _UNSEEN), axis=-1), dtype)


def fused(q_BTNH, k_BSKH, v_BSKH, queries, keys, rules):
    """By the backend's own operation: cuDNN on JAX, SDPA on PyTorch."""
    seen_BTS = visible(queries, keys, rules.window)
    # With one key head for 8 queries SDPA falls back to scores in memory, and cuDNN takes a third longer.
    groups = rules.num_query_heads // rules.num_key_value_heads
    k_BSNH, v_BSNH = (ops.repeat(x, groups, axis=2) for x in (k_BSKH, v_BSKH))
    return ops.dot_product_attention(
        q_BTNH, k_BSNH, v_BSNH, mask=seen_BTS[:, None], scale=rules.scale
    )


def formula(q_BTNH, k_BSKH, v_BSKH, queries, keys, rules, drop=None):
    """By products and a softmax, anywhere."""
    heads, groups = rules.num_key_value_heads, rules.num_query_heads // rules.num_key_value_heads
    q_BTNH = q_BTNH * ops.cast(rules.scale, q_BTNH.dtype)
    tokens = ops.shape(q_BTNH)[1]
    q_BTKGH = ops.reshape(q_BTNH, (-1, tokens, heads, groups, rules.head_dim))
    # Queries of one key head stay in their order, so that with one key head nothing is transposed.
    scores_BKTGS = ops.cast(ops.einsum("btkgh,bskh->bktgs", q_BTKGH, k_BSKH), "float32")
    seen_BTS = visible(queries, keys, rules.window)
    weights_BKTGS = weights_of(scores_BKTGS, seen_BTS[:, None, :, None], rules, v_BSKH.dtype)
    if drop is not None:
        weights_BKTGS = drop(weights_BKTGS)
    y_BTKGH = ops.einsum("bktgs,bskh->btkgh", weights_BKTGS, v_BSKH)
    return ops.reshape(y_BTKGH, (-1, tokens, rules.num_query_heads, rules.head_dim))
