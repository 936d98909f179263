"""Attention over whole texts by JAX's splash kernel, on TPUs: no scores in memory, forward or back.

The kernel is told once what is the same for all texts, that tokens look back and how far; documents
and padding are numbers, of which only equal ones see each other.

B batch, T tokens, K key heads, G queries a key head serves, N = K * G, H head width.
"""

from typing import Any

from keras import ops

from keras_gemma.config import AttentionRules

_LANES = 128  # of a TPU: lengths and widths are multiples of it
_BLOCKS = (512, 256, _LANES)  # tokens that are read at once


def fits_splash(tokens: int | None, rules: AttentionRules) -> bool:
    """Whether the kernel takes texts of this length.

    >>> from keras_gemma.config import GemmaConfig
    >>> rules = GemmaConfig(256, 1, 1, 1, 128, 256, 256).attention_rules(0)
    >>> fits_splash(256, rules), fits_splash(100, rules)
    (True, False)
    """
    return bool(tokens) and tokens % _LANES == 0 and rules.head_dim % _LANES == 0


def splash(
    q_BTNH: Any,
    k_BTKH: Any,
    v_BTKH: Any,
    segment_BT: Any,
    rules: AttentionRules,
    interpret: bool = False,
) -> Any:
    """What `formula` computes for texts that look at themselves, BTNH; padding comes out as anything.

    `interpret` runs the kernel as plain operations, on any device, slowly.
    """
    import jax
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    tokens, heads = q_BTNH.shape[1], rules.num_key_value_heads
    groups = rules.num_query_heads // heads
    kernel = _kernel(tokens, groups, rules, interpret)
    q_BTNH = q_BTNH * ops.cast(rules.scale, q_BTNH.dtype)
    q_BTKGH = ops.reshape(q_BTNH, (-1, tokens, heads, groups, rules.head_dim))
    q_BKGTH = ops.transpose(q_BTKGH, (0, 2, 3, 1, 4))
    k_BKTH, v_BKTH = (ops.transpose(x, (0, 2, 1, 3)) for x in (k_BTKH, v_BTKH))
    of_heads = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    y_BKGTH = jax.vmap(of_heads)(q_BKGTH, k_BKTH, v_BKTH, SegmentIds(segment_BT, segment_BT))
    y_BTKGH = ops.transpose(y_BKGTH, (0, 3, 1, 2, 4))
    return ops.reshape(y_BTKGH, (-1, tokens, rules.num_query_heads, rules.head_dim))


def _kernel(tokens, groups, rules, interpret):
    """For one key head and the queries that it serves."""
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    shape = (tokens, tokens)
    if rules.window is None:
        mask = library.CausalMask(shape)
    else:
        mask = library.LocalMask(shape, window_size=(rules.window - 1, 0), offset=0)
    block = next(size for size in _BLOCKS if tokens % size == 0)
    names = "q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq"
    return library.make_splash_mqa_single_device(
        library.MultiHeadMask([mask] * groups),
        block_sizes=library.BlockSizes(**{f"block_{name}": block for name in names}),
        attn_logits_soft_cap=rules.soft_cap,
        interpret=interpret,
    )
