"""Cross-entropy over a large vocabulary whose logits are never held: a chunk of them at a time.

The gradient of a sum of losses is known as soon as its logits are, so it is taken with them, and the backward pass only
scales it: three products, as where all logits are kept. B batch, T tokens, C tokens of a chunk, D model width, V vocabulary.
"""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gemma.layers.attend import soft_capped

# Products of fewer rows are slow: a matrix is read, and packed, for each.
_FEWEST = 256
# Parts in which a chunk's share of the gradient is added to a table, so that none but the whole needs memory.
_PARTS = 64


class Head(NamedTuple):
    """What makes logits of hidden states: a product with a table, kept between -cap and cap."""

    table_VD: Any
    cap: float | None
    is_trained: bool


def cross_entropy(hidden_BTD, head: Head, labels_BT, weights_BT, training: bool):
    """Weighted sums over all tokens: of the loss in nats, and of 1 where the label is likeliest.

    Differentiable, if `training`, with respect to the hidden states and, if it is trained, the table; the second sum is
    not. Returns two float32 scalars.
    """
    if keras.backend.backend() == "torch":
        from keras_gemma.models.torch_cross_entropy import Sums

        chunk = chunk_length(hidden_BTD, head.table_VD)
        return Sums.apply(hidden_BTD, head.table_VD, labels_BT, weights_BT, head.cap, chunk)

    def sums(hidden_BTD, table_VD, is_trained):
        arrays = hidden_BTD, table_VD, labels_BT, weights_BT
        return _sums(*arrays, head.cap, training, training and is_trained)

    if not training:
        return sums(hidden_BTD, head.table_VD, False)[:2]

    def with_gradients(hidden_BTD, *tables):
        *values, hidden_grad, table_grad = sums(hidden_BTD, *(tables or (table_VD,)), bool(tables))
        grads = (hidden_grad, table_grad)[: 1 + len(tables)]

        def scaled(upstream):
            scaled_grads = tuple(grad * ops.cast(upstream[0], grad.dtype) for grad in grads)
            return scaled_grads if tables else scaled_grads[0]

        return ops.stack(values), scaled

    table_VD = head.table_VD
    tables = (table_VD,) if head.is_trained else ()
    values = ops.custom_gradient(with_gradients)(hidden_BTD, *tables)
    return values[0], values[1]


def chunk_tokens(width: int) -> int:
    """Tokens of all texts in a chunk."""
    return max(_FEWEST, width // 2)


def chunk_length(hidden_BTD, table_VD):
    """Tokens of each text in a chunk, so that a chunk's logits take half of the table or less."""
    batch, length = ops.shape(hidden_BTD)[:2]
    chunks = -(-length // -(-chunk_tokens(table_VD.shape[1]) // batch))
    return -(-length // chunks)  # of one size


def _sums(hidden_BTD, table_VD, labels_BT, weights_BT, cap, for_hidden, for_table):
    """The two sums, and gradients of the first, or zeros where they are not asked for."""
    batch, length, width = ops.shape(hidden_BTD)
    chunk = chunk_length(hidden_BTD, table_VD)
    chunks = -(-length // chunk)
    missing = chunks * chunk - length  # padding counts nothing
    hidden_BTD = ops.pad(hidden_BTD, ((0, 0), (0, missing), (0, 0)))
    labels_BT, weights_BT = (ops.pad(x, ((0, 0), (0, missing))) for x in (labels_BT, weights_BT))

    def step(number, carry):
        loss, correct, hidden_grad, table_grad = carry
        start = number * chunk
        hidden_CD = ops.reshape(
            ops.slice(hidden_BTD, (0, start, 0), (batch, chunk, width)), (-1, width)
        )
        labels_C, weights_C = (
            ops.reshape(ops.slice(x, (0, start), (batch, chunk)), (-1,))
            for x in (labels_BT, weights_BT)
        )
        more_loss, more_correct, slope_CV = _chunk(hidden_CD, table_VD, labels_C, weights_C, cap)
        if for_hidden:
            grad_BCD = ops.reshape(ops.matmul(slope_CV, table_VD), (batch, chunk, width))
            hidden_grad = ops.slice_update(hidden_grad, (0, start, 0), grad_BCD)
        if for_table:
            table_grad = _added(table_grad, slope_CV, hidden_CD)
        return loss + more_loss, correct + more_correct, hidden_grad, table_grad

    zero = ops.zeros((), "float32")
    carry = (
        zero,
        zero,
        ops.zeros_like(hidden_BTD) if for_hidden else zero,
        ops.zeros(table_VD.shape, "float32") if for_table else zero,
    )
    loss, correct, hidden_grad, table_grad = ops.fori_loop(0, chunks, step, carry)
    if for_hidden:
        hidden_grad = hidden_grad[:, :length]
    return loss, correct, hidden_grad, ops.cast(table_grad, table_VD.dtype)


def _chunk(hidden_CD, table_VD, labels_C, weights_C, cap):
    """Two sums, and the gradient of the first with respect to the product."""
    logits_CV = ops.matmul(hidden_CD, ops.transpose(table_VD))
    if cap is not None:
        logits_CV = soft_capped(logits_CV, cap)
    dtype, logits_CV = logits_CV.dtype, ops.cast(logits_CV, "float32")
    total_C1 = ops.logsumexp(logits_CV, axis=-1, keepdims=True)
    chosen_C = ops.take_along_axis(logits_CV, labels_C[:, None], axis=-1)[:, 0]
    loss = ops.sum(weights_C * (total_C1[:, 0] - chosen_C))
    is_likeliest_C = ops.cast(chosen_C >= ops.max(logits_CV, axis=-1), "float32")
    is_label_CV = ops.arange(table_VD.shape[0], dtype="int32")[None] == labels_C[:, None]
    slope_CV = ops.exp(logits_CV - total_C1) - ops.cast(is_label_CV, "float32")
    slope_CV = slope_CV * weights_C[:, None]
    if cap is not None:
        slope_CV = slope_CV * (1 - ops.square(logits_CV / cap))
    return loss, ops.sum(weights_C * is_likeliest_C), ops.cast(slope_CV, dtype)


def _added(grad_VD, slope_CV, hidden_CD):
    """`grad + slope.T @ hidden`, in parts: XLA adds a part in place, and a whole product in memory of its own.

    On a CPU Keras leaves TensorFlow without XLA, and there a part that is written is a copy of all others.
    """
    if keras.backend.backend() == "tensorflow":
        return grad_VD + ops.cast(ops.matmul(ops.transpose(slope_CV), hidden_CD), "float32")
    vocabulary, width = grad_VD.shape
    rows = vocabulary // math.gcd(vocabulary, _PARTS)

    def add_part(part, grad_VD):
        slope_CR = ops.slice(slope_CV, (0, part * rows), (ops.shape(slope_CV)[0], rows))
        old_RD = ops.slice(grad_VD, (part * rows, 0), (rows, width))
        more_RD = ops.matmul(ops.transpose(slope_CR), hidden_CD)
        return ops.slice_update(grad_VD, (part * rows, 0), old_RD + ops.cast(more_RD, "float32"))

    return ops.fori_loop(0, vocabulary // rows, add_part, grad_VD)
