"""The plan for decoding: a model's weights in few large matrices, and its layers over them.

The formulas are those of the layers (`AttentionFormula`, `BlockFormula`): there is one forward
pass, and here are other holders of weights for it. Queries, keys and values come of one product,
and so do both branches of the feed-forward layer.

B batch, T tokens, D model width, N query heads, K key heads, H head width, F feed-forward width.
"""

import dataclasses
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_gemma.config import AttentionRules, GemmaConfig
from keras_gemma.generation.compiled import written_once
from keras_gemma.generation.huge_pages import gather
from keras_gemma.generation.layouts import laid_out, whole_laid_out
from keras_gemma.layers import (
    AttentionFormula,
    BlockFormula,
    Dense,
    Gemma3DecoderBlock,
    GemmaAttention,
    GemmaDecoderBlock,
    ReversibleEmbedding,
    RMSNormalization,
    normalize,
    scaled,
    soft_capped,
)
from keras_gemma.quantization import WholeNumbers, floats_of, is_known, matrix_of, stored

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
    """Whether each part is the layer that this project makes, as floats or as `quantize` left it."""
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
        dense = dense_layers(block)
        if any(type(layer) is not Dense for layer in dense):
            return False
        parts += dense
    return all(is_known(part) for part in parts if part is not stack.final_norm)


def dense_layers(block: Any) -> list:
    """Queries, keys, values, attention's output; gate, its other branch, the way back."""
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


def norms_of(block: Any) -> dict[str, Any]:
    """The norms that a block has, by attribute of the block or its attention."""
    holders = (block, _NORMS), (block.attention, _HEAD_NORMS)
    return {
        name: getattr(holder, name)
        for holder, names in holders
        for name in names
        if hasattr(holder, name)
    }


def arrays(stack: Any) -> StackArrays:
    """The weights of a stack in the layouts of the running backend, in its compute dtype."""
    embedding, dtype = stack.token_embedding, stack.token_embedding.compute_dtype
    whole = stored(embedding)
    if whole is None:
        table = laid_out(ops.cast(_value(embedding.embeddings), dtype), shared=True)
    else:
        table = whole_laid_out(whole, dtype, looked_up=True)
    lay_out = written_once(_float_layout)
    blocks = tuple(_block_arrays(block, dtype, lay_out) for block in stack.blocks)
    found = StackArrays(table, blocks, _scale(stack.final_norm))
    gather(keras.tree.flatten(found))
    return found


def _block_arrays(block, dtype, lay_out):
    query, key, value, output, gate, second, last = dense_layers(block)

    def made(*layers):
        """The matrices of layers, one below the other."""
        whole = joined(*map(stored, layers))
        if whole is not None:
            return whole_laid_out(whole, dtype)
        heads_first = tuple(_heads_first(layer) for layer in layers)
        return lay_out((dtype, heads_first), *(_floats(layer, dtype) for layer in layers))

    norms = {name: _scale(norm) for name, norm in norms_of(block).items()}
    return BlockArrays(made(query, key, value), made(output), made(gate, second), made(last), norms)


def _floats(layer, dtype):
    """A layer's kernel with its adapter; of whole numbers alone, a matrix with a row per output."""
    if _is_whole(layer):
        return ops.cast(matrix_of(layer, floats_of(layer)), dtype)
    return _value(layer.kernel)


def _is_whole(layer):
    return layer.quantization_mode is not None and layer.active is None


def _heads_first(layer):
    """Whether a kernel is NDH, heads being outputs; `None` for one that is a matrix by output."""
    if _is_whole(layer):
        return None
    return layer.equation.endswith("h")


def _float_layout(form, *kernels):
    """Kernels as one matrix, the outputs of one below those of the other."""
    dtype, heads_first = form
    parts = [ops.cast(kernel, dtype) for kernel in kernels]
    matrices = [_by_output(*pair) for pair in zip(parts, heads_first)]
    # One alone may lie as it should; to concatenate it is to copy it.
    return laid_out(ops.concatenate(matrices) if len(matrices) > 1 else matrices[0])


def _by_output(kernel, heads_first):
    if heads_first is None:
        return kernel
    if heads_first:
        return ops.reshape(ops.transpose(kernel, (0, 2, 1)), (-1, kernel.shape[1]))
    return ops.transpose(ops.reshape(kernel, (-1, kernel.shape[-1])))


def joined(*parts: WholeNumbers | None) -> WholeNumbers | None:
    """Matrices one below the other, if all are quantized, and alike."""
    if None in parts or len({(part.mode, part.block) for part in parts}) > 1:
        return None
    return parts[0]._replace(
        values=np.concatenate([part.values for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
    )


def _scale(norm):
    return _value(norm.scale)


def _value(variable):
    return ops.stop_gradient(ops.convert_to_tensor(variable))


def planned(stack: Any, found: StackArrays) -> Any:
    """The stack with its weights taken from a plan."""
    final = stack.final_norm
    call = written_once(_call_block)
    return dataclasses.replace(
        stack,
        token_embedding=PlannedEmbedding(stack, found.table),
        blocks=tuple(
            PlannedLayer(Form.of(block), arrays, call)
            for block, arrays in zip(stack.blocks, found.blocks)
        ),
        final_norm=_norm(found.final_norm, final.epsilon, final.compute_dtype),
    )


def _norm(scale, epsilon, dtype):
    return lambda x: normalize(x, scale, epsilon, dtype)


class PlannedEmbedding:
    """`ReversibleEmbedding` over a plan."""

    def __init__(self, stack, table):
        self.table, self.soft_cap = table, stack.config.final_logit_soft_cap
        self.dtype = stack.token_embedding.compute_dtype

    def __call__(self, x, reverse=False):
        if not reverse:  # rows of whole numbers come as float32
            return scaled(ops.cast(self.table.rows(x), self.dtype))
        logits_BTV = self.table(x)
        if self.soft_cap is not None:
            logits_BTV = soft_capped(logits_BTV, self.soft_cap)
        return logits_BTV


class Form(NamedTuple):
    """What a block is beside its weights; those of one form are written into a program once."""

    config: GemmaConfig
    rules: AttentionRules
    dtype: str  # that norms compute for

    @classmethod
    def of(cls, layer: Any) -> "Form":
        # Dropout is for training alone.
        config = dataclasses.replace(layer.config, dropout=0.0)
        return cls(config, layer.attention.rules, layer.pre_attention_norm.compute_dtype)


class PlannedLayer(NamedTuple):
    """A decoder block of a planned stack."""

    form: Form
    found: BlockArrays
    written: Any  # `_call_block`

    def __call__(self, x_BTD, positions, cache=(), training=False):
        return self.written(self.form, self.found, x_BTD, positions, cache)


def _call_block(form, found, x_BTD, positions, cache):
    return PlannedBlock(form, found).call(x_BTD, positions, cache)


class _Planned:
    """Norms over a plan, under the names of `BlockArrays.norms`."""

    def __init__(self, form: Form, found: BlockArrays):
        self.config, self.rules, self.found = form.config, form.rules, found
        for name, scale in found.norms.items():
            setattr(self, name, _norm(scale, form.config.layer_norm_epsilon, form.dtype))


class PlannedAttention(_Planned, AttentionFormula):
    """`GemmaAttention` over a plan."""

    dropout_layer = None

    def query_key_value(self, x_BTD):
        rules = self.rules
        queries, keys = rules.num_query_heads, rules.num_key_value_heads
        made = self.found.query_key_value(x_BTD)
        heads = ops.reshape(made, (*x_BTD.shape[:2], queries + 2 * keys, rules.head_dim))
        return heads[:, :, :queries], heads[:, :, queries:-keys], heads[:, :, -keys:]

    def output_dense(self, y_BTNH):
        return self.found.attention_output(ops.reshape(y_BTNH, (*y_BTNH.shape[:2], -1)))

    __call__ = AttentionFormula.call


class PlannedBlock(_Planned, BlockFormula):
    """`GemmaDecoderBlock` over a plan."""

    def __init__(self, form, found):
        super().__init__(form, found)
        self.attention = PlannedAttention(form, found)

    def gate_and_value(self, x_BTD, training):
        both = self.found.gate_and_value(x_BTD)
        return both[..., : both.shape[-1] // 2], both[..., both.shape[-1] // 2 :]

    def ffw_linear(self, x_BTF, training):
        return self.found.feed_forward_output(x_BTF)
