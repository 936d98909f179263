"""Rows of training and of prompts inside a TensorFlow graph, for `tf.data`.

The same as `GemmaCausalLMPreprocessor` makes in Python; imported when TensorFlow tensors come.
B rows, T tokens in a row.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow

from keras_gemma.text.graph_tokenizer import as_vector, with_ends
from keras_gemma.text.training_rows import PAIR, split_long

tf: Any = tensorflow  # its stubs know neither ragged tensors nor what broadcasts


# Nothing here asks a tensor in an `if`; to have it all rewritten takes seconds.
@tf.autograph.experimental.do_not_convert
def training_rows(preprocessor: Any, x: Any, length: int) -> tuple[dict[str, Any], Any, Any]:
    """`(x, y, sample_weight)` of tensors of texts, or of `{"prompts", "responses"}` of them."""
    if isinstance(x, Mapping) and not set(x) >= PAIR:
        raise TypeError(
            f"Got a dictionary of {sorted(x)}; from tf.data, texts or 'prompts' with 'responses' "
            "were awaited. Give conversations as Python lists."
        )
    if preprocessor.policy != ("split" if preprocessor.pack else "cut"):
        raise ValueError(
            f"In tf.data, texts too long are split where rows are packed, and cut elsewhere; not "
            f"too_long={preprocessor.too_long!r} with pack={preprocessor.pack}. Give Python lists, "
            "or what keras_gemma.data.read reads."
        )
    limit = None if preprocessor.pack else length + 1
    one = x["prompts"] if isinstance(x, Mapping) else x
    ids, weights = (_pairs if isinstance(x, Mapping) else _texts)(preprocessor, x, limit)
    if preprocessor.pack:
        rows = _packed(preprocessor, ids, weights, length + 1)
    else:
        shape, pad = [None, length + 1], preprocessor.tokenizer.pad_token_id
        segments = tf.sequence_mask(ids.row_lengths(), length + 1, tf.int32)
        rows = ids.to_tensor(pad, shape=shape), segments, weights.to_tensor(shape=shape)
    token_ids, segments, weights = rows
    same = tf.cast(tf.equal(segments[:, 1:], segments[:, :-1]), tf.float32)
    batch = {"token_ids": token_ids[:, :-1], "padding_mask": segments[:, :-1]}
    batch = batch, token_ids[:, 1:], weights[:, 1:] * same
    if one.shape.rank or preprocessor.pack:
        return batch
    return tf.nest.map_structure(lambda row: row[0], batch)


@tf.autograph.experimental.do_not_convert
def prompt_rows(preprocessor: Any, x: Any, length: int) -> dict[str, Any]:
    """`{"token_ids", "padding_mask"}` of prompts; an error where one is longer than `length`."""
    ids = preprocessor.tokenizer.graph.ids(as_vector(x), control_tokens=True)
    ids = with_ends(ids, preprocessor.first, [])
    longest = tf.reduce_max(ids.row_lengths())
    limit = tf.constant(length, tf.int64)
    message = f"A prompt does not fit the limit of {length} tokens."
    with tf.control_dependencies([tf.debugging.assert_less_equal(longest, limit, message)]):
        mask = tf.sequence_mask(ids.row_lengths(), length, tf.int32)
    rows = ids.to_tensor(preprocessor.tokenizer.pad_token_id, shape=[None, length])
    batch = {"token_ids": rows, "padding_mask": mask}
    return batch if x.shape.rank else {key: value[0] for key, value in batch.items()}


@tf.autograph.experimental.do_not_convert
def rows_of_parts(preprocessor: Any, parts: tuple, length: int, width: Any) -> dict[str, Any]:
    """`{"token_ids", "padding_mask"}` of tensors of texts, each the same part of all rows."""

    def rows_of(*columns):
        texts = tuple([text.decode("utf-8") for text in column] for column in columns)
        return list(preprocessor.padded(preprocessor.rows(texts, length), length, width).values())

    rows = tf.numpy_function(rows_of, [as_vector(part) for part in parts], [tf.int32, tf.int32])
    for row in rows:
        row.set_shape([None, None if width else length])
    ids, mask = rows
    batch = {"token_ids": ids, "padding_mask": mask}
    return batch if parts[0].shape.rank else {key: value[0] for key, value in batch.items()}


def _texts(preprocessor, texts, limit):
    first, last = preprocessor.first, preprocessor.last
    graph = preprocessor.tokenizer.graph
    ids = graph.ids(as_vector(texts), preprocessor.control_tokens)
    if limit:
        room = max(limit - len(first) - len(last), 0)
        with _warning_of_more_than(room, ids.row_lengths()):
            ids = ids[:, :room]
    ids = with_ends(ids, first, last)
    return ids, tf.ones_like(ids, tf.float32)


def _pairs(preprocessor, x, limit):
    first, last = preprocessor.first, preprocessor.last
    graph = preprocessor.tokenizer.graph
    prompts, responses = (
        graph.ids(as_vector(x[key]), preprocessor.control_tokens)
        for key in ("prompts", "responses")
    )
    if limit:
        room = tf.constant(max(limit - len(first) - len(last), 0), tf.int64)
        kept = tf.minimum(
            prompts.row_lengths(), tf.maximum(room - responses.row_lengths(), (room + 1) // 2)
        )
        with _warning_of_more_than(room, prompts.row_lengths() + responses.row_lengths()):
            prompts, responses = _cut(prompts, kept), _cut(responses, room - kept)
    prompts, responses = with_ends(prompts, first, []), with_ends(responses, [], last)
    parts = tf.zeros_like(prompts, tf.float32), tf.ones_like(responses, tf.float32)
    return tf.concat([prompts, responses], 1), tf.concat(parts, 1)


def _warning_of_more_than(room, lengths):
    """What is computed under it is preceded by a warning where a text is cut."""

    def warn(cut, total):
        if cut:
            warnings.warn(
                f"{cut} of the {total} texts of a batch were longer than a row and were cut off. "
                "Raise the preprocessor's sequence_length.",
                stacklevel=2,
            )

    cut = tf.math.count_nonzero(lengths > tf.cast(room, lengths.dtype))
    return tf.control_dependencies([tf.numpy_function(warn, [cut, tf.size(lengths)], [])])


def _cut(rows, lengths):
    """A ragged tensor's rows, each cut to a length of its own."""
    row_of = rows.value_rowids()
    position = tf.range(tf.size(row_of, tf.int64)) - tf.gather(rows.row_starts(), row_of)
    kept = tf.boolean_mask(rows.flat_values, position < tf.gather(lengths, row_of))
    return tf.RaggedTensor.from_row_lengths(
        kept, tf.minimum(rows.row_lengths(), lengths), validate=False
    )


def _packed(preprocessor, ids, weights, row_length):
    def rows_of(ids, weights, lengths):
        ends = np.cumsum(lengths)[:-1]
        parts = [[part.tolist() for part in np.split(flat, ends)] for flat in (ids, weights)]
        parts = split_long(*parts, row_length, preprocessor.first)
        return tuple(preprocessor.rows_of(*parts, row_length))

    flat = [ids.flat_values, weights.flat_values, ids.row_lengths()]
    rows = tf.numpy_function(rows_of, flat, [tf.int32, tf.int32, tf.float32])
    for row in rows:
        row.set_shape([None, row_length])
    return rows
