"""Cross-entropy over a large vocabulary whose logits are never held: a chunk of them at a time.

The gradient of a sum of losses is known as soon as its logits are, so it is taken with them, and the backward pass only
scales it: three products, as where all logits are kept. Within a chunk, the table is multiplied with a part after the other.
B batch, T tokens, C tokens of a chunk, D model width, V vocabulary, of which R are a part.
"""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gemma.compilers import (
    added_in_each_row,
    apart,
    as_bits,
    as_floats,
    in_each_row,
    numbers_at_once,
    read,
    stacked,
    tensor_array,
    write,
)
from keras_gemma.layers.attend import soft_capped

# Products of fewer rows are slow: a matrix is read, and packed, for each.
_FEWEST = 256


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
        arrays = hidden_BTD, head.table_VD, labels_BT, weights_BT
        return Sums.apply(*arrays, head.cap, chunk, numbers_at_once())

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
    vocabulary = table_VD.shape[0]
    chunk = chunk_length(hidden_BTD, table_VD)
    chunks = -(-length // chunk)
    missing = chunks * chunk - length  # padding counts nothing
    hidden_BTD = ops.pad(hidden_BTD, ((0, 0), (0, missing), (0, 0)))
    labels_BT, weights_BT = (ops.pad(x, ((0, 0), (0, missing))) for x in (labels_BT, weights_BT))
    tokens = batch * chunk
    parts = _parts(tokens if isinstance(tokens, int) else chunk_tokens(width), vocabulary)

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
        more_loss, more_correct, grad_CD, table_grad = _chunk(
            hidden_CD, table_VD, labels_C, weights_C, cap, parts, for_hidden, for_table, table_grad
        )
        if for_hidden:
            grad_BCD = ops.reshape(grad_CD, (batch, chunk, width))
            hidden_grad = ops.slice_update(hidden_grad, (0, start, 0), grad_BCD)
        return loss + more_loss, correct + more_correct, hidden_grad, table_grad

    zero = _zero(weights_BT)
    hidden_grad = ops.zeros_like(hidden_BTD) if for_hidden else zero
    table_grad = zero
    if for_table:
        shape = vocabulary // parts, width
        table_grad = tensor_array(parts, shape, "float32", zero)
    carry = zero, zero, hidden_grad, table_grad
    loss, correct, hidden_grad, table_grad = ops.fori_loop(0, chunks, step, carry)
    if for_hidden:
        hidden_grad = hidden_grad[:, :length]
    if for_table:
        table_grad = ops.reshape(stacked(table_grad), table_VD.shape)
    return loss, correct, hidden_grad, ops.cast(table_grad, table_VD.dtype)


def _chunk(hidden_CD, table_VD, labels_C, weights_C, cap, parts, for_hidden, for_table, table_grad):
    """The two sums of a chunk, and the gradient of the first for its hidden states; that for the table is added.

    All logits are made before the first slope: it needs the sum over them.
    """
    vocabulary, width = table_VD.shape
    rows = vocabulary // parts

    def table_of(part):
        return apart(lambda t, p: ops.slice(t, (p * rows, 0), (rows, width)), table_VD, part)

    def loop(body, carry):
        return ops.fori_loop(0, parts, body, carry) if parts > 1 else body(0, carry)

    def make(part, made):
        logits_CR = ops.matmul(hidden_CD, ops.transpose(table_of(part)))
        logits_CR = soft_capped(logits_CR, cap) if cap is not None else logits_CR
        exact_CR = ops.cast(logits_CR, "float32")
        chosen_C, top_C = in_each_row(exact_CR, labels_C - part * rows), ops.max(exact_CR, -1)
        exps_CR = ops.exp(exact_CR - top_C[:, None])
        sums_3C = ops.stack([ops.log(ops.sum(exps_CR, -1)) + top_C, top_C, chosen_C])
        # A slope is one of these exponentials, scaled. Under a cap it takes the logit.
        kept_CR = ops.cast(exps_CR, logits_CR.dtype) if cap is None else logits_CR
        more = (sums_3C, as_bits(kept_CR)) if for_hidden else (sums_3C,)
        return tuple(write(array, part, new) for array, new in zip(made, more))

    zero, tokens = _zero(weights_C), ops.shape(hidden_CD)[0]
    made = [tensor_array(parts, (3, tokens), "float32", zero)]
    if for_hidden:
        bits = as_bits(ops.cast(zero, hidden_CD.dtype))
        made += [tensor_array(parts, (tokens, rows), bits.dtype, zero)]
    made = loop(make, tuple(made))
    sums_PC, most_PC, chosen_PC = ops.unstack(stacked(made[0]), 3, axis=1)
    sum_C, chosen_C = ops.logsumexp(sums_PC, axis=0), ops.sum(chosen_PC, axis=0)
    is_most_C = ops.cast(chosen_C >= ops.max(most_PC, axis=0), "float32")
    loss, correct = ops.sum(weights_C * (sum_C - chosen_C)), ops.sum(weights_C * is_most_C)
    if not for_hidden:
        return loss, correct, None, table_grad

    def differentiate(part, grads):
        grad_CD, table_grad = grads
        kept_CR = ops.cast(as_floats(read(made[1], part), hidden_CD.dtype), "float32")
        if cap is None:
            slope_CR = kept_CR * (weights_C * ops.exp(most_PC[part] - sum_C))[:, None]
        else:
            slope_CR = ops.exp(kept_CR - sum_C[:, None]) * weights_C[:, None]
        slope_CR = added_in_each_row(slope_CR, labels_C - part * rows, -weights_C)
        if cap is not None:
            slope_CR = slope_CR * (1 - ops.square(kept_CR / cap))
        slope_CR = ops.cast(slope_CR, hidden_CD.dtype)
        grad_CD = grad_CD + ops.cast(ops.matmul(slope_CR, table_of(part)), "float32")
        if for_table:
            more_RD = ops.matmul(ops.transpose(slope_CR), hidden_CD)
            more_RD = read(table_grad, part) + ops.cast(more_RD, "float32")
            table_grad = write(table_grad, part, more_RD)
        return grad_CD, table_grad

    grads = loop(differentiate, (ops.zeros(ops.shape(hidden_CD), "float32"), table_grad))
    return loss, correct, ops.cast(grads[0], hidden_CD.dtype), grads[1]


def _zero(weights):
    """Zero, and no constant: see `tensor_array`."""
    return 0 * ops.ravel(weights)[0]


def _parts(tokens, vocabulary):
    """Into how many parts of one size a vocabulary is cut."""
    most = numbers_at_once()
    if most == math.inf:
        return 1
    least = -(-tokens * vocabulary // most)
    return math.gcd(vocabulary, 1 << (least - 1).bit_length())
