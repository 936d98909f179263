"""The plan for decoding by keras-gemma-kernels: weights in panels, a block in one call.

What the kernels leave to the formulas is attention over many tokens, or over a cache of another kind.
Activations are float32 whatever the weights are.

B batch, T tokens, D model width, N query heads, K key heads, H head width, V vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gemma.arrays import lent
from keras_gemma.generation.compiled import written_once
from keras_gemma.generation.huge_pages import gather
from keras_gemma.generation.kernels import kg
from keras_gemma.generation.kv_cache import SLACK, KVCache
from keras_gemma.generation.plan import StackArrays, dense_layers, joined, norms_of
from keras_gemma.layers import AttentionFormula, normalize, soft_capped
from keras_gemma.quantization import floats_of, matrix_of, stored

_WIDE = "float32"


def arrays(stack: Any) -> StackArrays:
    """The weights of a stack as the kernels read them, in its compute dtype or as quantized.

    An embedding table of floats stays where it is: as panels it would lie in memory twice.
    """
    embedding, dtype = stack.token_embedding, stack.token_embedding.compute_dtype
    if embedding.quantization_mode:
        table = _packed(dtype, embedding)
    else:
        table = kg.as_stored(_tensor(embedding.embeddings, dtype))
        gather([table.data])  # what `pack` makes is in huge pages already
    blocks = tuple(_block_arrays(block, dtype) for block in stack.blocks)
    return StackArrays(table, blocks, _tensor(stack.final_norm.scale, _WIDE))


def _block_arrays(block, dtype):
    query, key, value, output, gate, second, last = dense_layers(block)
    rules = block.attention.rules
    norms = {name: _tensor(norm.scale, _WIDE) for name, norm in norms_of(block).items()}
    return kg.Block(
        _packed(dtype, query, key, value),
        _packed(dtype, output),
        _packed(dtype, gate, second),
        _packed(dtype, last),
        rules=rules,
        epsilon=block.pre_attention_norm.epsilon,
        **norms,
    )


def _tensor(variable, dtype):
    return ops.cast(ops.stop_gradient(ops.convert_to_tensor(variable)), dtype)


def _packed(dtype, *layers):
    """The matrices of layers, one below the other: as whole numbers, if all are quantized alike."""
    whole = joined(*map(stored, layers))
    if whole is not None and whole.block in (None, kg.BLOCK):
        scales = whole.scales[:, 0] if whole.block is None else whole.scales
        made = kg.pack(whole.values, whole.mode, scales=scales)
    else:
        made = kg.pack(np.concatenate(list(map(_floats, layers))), dtype)
    return dataclasses.replace(made, data=lent(made.data))


def _floats(layer):
    if layer.quantization_mode is not None and layer.active is None:
        return matrix_of(layer, floats_of(layer))
    return matrix_of(layer, np.asarray(ops.convert_to_numpy(ops.stop_gradient(layer.kernel))))


def planned(stack: Any, found: StackArrays) -> Any:
    """The stack over the kernels."""
    final, epsilon = found.final_norm, stack.final_norm.epsilon
    call = written_once(_call_block)
    return dataclasses.replace(
        stack,
        token_embedding=KernelEmbedding(stack, found.table),
        blocks=tuple(KernelLayer(block, call) for block in found.blocks),
        final_norm=lambda x: normalize(x, final, epsilon, _WIDE),
    )


class KernelEmbedding:
    """`ReversibleEmbedding` over the kernels."""

    def __init__(self, stack, table):
        self.table, self.soft_cap = table, stack.config.final_logit_soft_cap
        # As `scaled` rounds it.
        width, dtype = stack.config.hidden_dim, stack.token_embedding.compute_dtype
        self.factor = float(np.asarray(width**0.5, np.dtype(dtype)))

    def __call__(self, x, reverse=False):
        if not reverse:
            return kg.rows(self.table, x) * self.factor
        logits_BTV = kg.linear(x, self.table)
        return logits_BTV if self.soft_cap is None else soft_capped(logits_BTV, self.soft_cap)


class KernelLayer(NamedTuple):
    """A decoder block of a stack over the kernels."""

    block: Any  # kg.Block: on JAX a tree that knows its form
    written: Any  # `_call_block`

    def __call__(self, x_BTD, positions, cache=(), training=False):
        return self.written(None, self.block, x_BTD, positions, cache)


def _call_block(form, block, x_BTD, positions, cache):
    """`GemmaDecoderBlock` over the kernels."""
    if type(cache) is KVCache and x_BTD.shape[1] <= SLACK + 1:
        return kg.decoder_block(x_BTD, positions, cache, block)
    real_BT1 = positions.segment[..., None] > 0
    x_BTD = ops.where(real_BT1, x_BTD, 0.0)  # a row of zeros costs next to nothing
    made = kg.attention_inputs(x_BTD, block)
    y_BTE, cache = KernelAttention(block).call(made, positions, cache)
    y_BTE = ops.where(real_BT1, y_BTE, 0.0)
    x_BTD = kg.attention_output(x_BTD, y_BTE, block)
    return kg.feed_forward(x_BTD, block), cache


class KernelAttention(AttentionFormula):
    """The formula of attention between the products of a block: from queries, keys and values in one."""

    dropout_layer = None

    def __init__(self, block):
        self.rules, self.block = block.rules, block

    def query_key_value(self, made_BTE):
        queries, keys = self.rules.num_query_heads, self.rules.num_key_value_heads
        heads = ops.reshape(made_BTE, (*made_BTE.shape[:2], queries + 2 * keys, -1))
        return heads[:, :, :queries], heads[:, :, queries:-keys], heads[:, :, -keys:]

    def query_norm(self, q_BTNH):
        return normalize(q_BTNH, self.block.query_norm, self.block.epsilon, _WIDE)

    def key_norm(self, k_BTKH):
        return normalize(k_BTKH, self.block.key_norm, self.block.epsilon, _WIDE)

    def output_dense(self, y_BTNH):
        return ops.reshape(ops.cast(y_BTNH, _WIDE), (*y_BTNH.shape[:2], -1))
