"""The plan for decoding: a model's weights in few large matrices, and its layers over them.

The formulas are those of the layers (`AttentionFormula`, `BlockFormula`): there is one forward
pass, and here are other holders of weights for it. Queries, keys and values come of one product,
and so do both branches of the feed-forward layer.

B batch, T tokens, D model width, N query heads, K key heads, H head width, F feed-forward width.
"""

import dataclasses
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gemma.generation.layouts import laid_out
from keras_gemma.layers import (
    AttentionFormula,
    BlockFormula,
    Gemma3DecoderBlock,
    GemmaAttention,
    GemmaDecoderBlock,
    ReversibleEmbedding,
    RMSNormalization,
    normalize,
    scaled,
    soft_capped,
)

_BLOCKS = (GemmaDecoderBlock, Gemma3DecoderBlock)
_NORMS = ("pre_attention_norm", "post_attention_norm", "pre_ffw_norm", "post_ffw_norm")
_HEAD_NORMS = ("query_norm", "key_norm")


class BlockArrays(NamedTuple):
    """The weights of one decoder block."""

    query_key_value: Any
    attention_output: Any
    gate_and_value: Any
    feed_forward_output: Any
    norms: dict  # by attribute of the block or its attention


class StackArrays(NamedTuple):
    """The weights of a decoder stack."""

    table: Any
    blocks: tuple
    final_norm: Any


def is_plain(stack: Any) -> bool:
    """Whether each part is the layer that this project makes, in floats, on one device."""
    if keras.distribution.distribution() is not None:
        return False
    parts = [stack.token_embedding, stack.final_norm]
    if [*map(type, parts)] != [ReversibleEmbedding, RMSNormalization]:
        return False
    for block in stack.blocks:
        if type(block) not in _BLOCKS or type(block.attention) is not GemmaAttention:
            return False
        norms = [getattr(block, name, None) for name in _NORMS]
        norms += [getattr(block.attention, name, None) for name in _HEAD_NORMS]
        if any(type(norm) not in (RMSNormalization, type(None)) for norm in norms):
            return False
        dense = _dense_layers(block)
        if any(type(layer) is not keras.layers.EinsumDense for layer in dense):
            return False
        parts += dense
    return all(not getattr(part, "quantization_mode", None) for part in parts)


def _dense_layers(block):
    attention = block.attention
    return [
        attention.query_dense,
        attention.key_dense,
        attention.value_dense,
        attention.output_dense,
        block.gating_ffw,
        block.gating_ffw_2,
        block.ffw_linear,
    ]


def arrays(stack: Any) -> StackArrays:
    """The weights of a stack in the layouts of the running backend, in its compute dtype."""
    dtype = stack.token_embedding.compute_dtype
    table_VD = ops.cast(_value(stack.token_embedding.embeddings), dtype)
    return StackArrays(
        laid_out(table_VD, shared=True),
        tuple(_block_arrays(block, dtype) for block in stack.blocks),
        _scale(stack.final_norm),
    )


def _block_arrays(block, dtype):
    query, key, value, output, gate, second, last = (
        ops.cast(_value(layer.kernel), dtype) for layer in _dense_layers(block)
    )
    width = last.shape[1]

    def by_output(kernel_NDH):
        return ops.reshape(ops.transpose(kernel_NDH, (0, 2, 1)), (-1, width))

    norms = {
        name: _scale(getattr(holder, name))
        for holder, names in ((block, _NORMS), (block.attention, _HEAD_NORMS))
        for name in names
        if hasattr(holder, name)
    }
    return BlockArrays(
        laid_out(ops.concatenate([by_output(kernel) for kernel in (query, key, value)])),
        laid_out(ops.transpose(ops.reshape(output, (-1, width)))),
        laid_out(ops.concatenate([ops.transpose(gate), ops.transpose(second)])),
        laid_out(ops.transpose(last)),
        norms,
    )


def _scale(norm):
    return _value(norm.scale)


def _value(variable):
    return ops.stop_gradient(ops.convert_to_tensor(variable))


def planned(stack: Any, found: StackArrays) -> Any:
    """The stack with its weights taken from a plan."""
    return dataclasses.replace(
        stack,
        token_embedding=PlannedEmbedding(stack.config, found.table),
        blocks=tuple(map(PlannedBlock, stack.blocks, found.blocks)),
        final_norm=_norm(stack.final_norm, found.final_norm),
    )


def _take_norms(holder, layer, names, found):
    """Give `holder` those norms that the layer has, over the scales of a plan."""
    for name in names:
        if name in found.norms:
            setattr(holder, name, _norm(getattr(layer, name), found.norms[name]))


def _norm(layer, scale):
    epsilon, dtype = layer.epsilon, layer.compute_dtype
    return lambda x: normalize(x, scale, epsilon, dtype)


class PlannedEmbedding:
    """`ReversibleEmbedding` over a plan."""

    def __init__(self, config, table):
        self.table, self.soft_cap = table, config.final_logit_soft_cap

    def __call__(self, x, reverse=False):
        if not reverse:
            return scaled(self.table.rows(x))
        logits_BTV = self.table(x)
        if self.soft_cap is not None:
            logits_BTV = soft_capped(logits_BTV, self.soft_cap)
        return logits_BTV


class PlannedAttention(AttentionFormula):
    """`GemmaAttention` over a plan."""

    dropout_layer = None

    def __init__(self, layer, found: BlockArrays):
        self.rules, self.found = layer.rules, found
        _take_norms(self, layer, _HEAD_NORMS, found)

    def query_key_value(self, x_BTD):
        rules = self.rules
        queries, keys = rules.num_query_heads, rules.num_key_value_heads
        made = self.found.query_key_value(x_BTD)
        heads = ops.reshape(made, (*x_BTD.shape[:2], queries + 2 * keys, rules.head_dim))
        return heads[:, :, :queries], heads[:, :, queries:-keys], heads[:, :, -keys:]

    def output_dense(self, y_BTNH):
        return self.found.attention_output(ops.reshape(y_BTNH, (*y_BTNH.shape[:2], -1)))

    __call__ = AttentionFormula.call


class PlannedBlock(BlockFormula):
    """`GemmaDecoderBlock` over a plan."""

    def __init__(self, layer, found: BlockArrays):
        # Dropout is for training alone.
        self.config, self.found = dataclasses.replace(layer.config, dropout=0.0), found
        self.attention = PlannedAttention(layer.attention, found)
        _take_norms(self, layer, _NORMS, found)

    def gate_and_value(self, x_BTD):
        both = self.found.gate_and_value(x_BTD)
        return both[..., : both.shape[-1] // 2], both[..., both.shape[-1] // 2 :]

    def ffw_linear(self, x_BTF):
        return self.found.feed_forward_output(x_BTF)

    __call__ = BlockFormula.call
