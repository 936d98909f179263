"""The same ids inside a TensorFlow graph, for `tf.data`; imported when a tensor of strings comes.

tensorflow-text does the work where it is installed. Else, and for vocabularies that it can't be
trusted with, the graph calls the Python tokenizer, which is slower and can't be saved with it.
"""

import re
from typing import Any

import numpy as np
import tensorflow

from keras_gemma.text.control_tokens import WHITESPACE_MARK, rewrites_letters

tf: Any = tensorflow  # its stubs know neither ragged tensors nor what broadcasts
CUT = b"\xff"  # a byte that no UTF-8 text holds


class GraphTokenizer:
    """Tokenizes tensors of strings for a `GemmaTokenizer`, with its settings."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        parts = tokenizer.parts
        # One pass of a regular expression finds every name, if none can begin inside another.
        plain = not any(start in name[1:] for name in parts.names for start in parts.starts)
        self.cuts_in_graph = plain and not rewrites_letters(tokenizer.proto)
        rests = {c: [re.escape(n[1:]) for n in parts.names if n[0] == c] for c in parts.starts}
        self.names = {re.escape(start): "|".join(rest) for start, rest in rests.items()}
        self.processor: Any = None
        self.read()

    def read(self) -> None:
        """Let tensorflow-text, if it is there, read the vocabulary, once.

        And again where TensorFlow has let go of it: `tf.random.set_seed` clears what operations hold.
        """
        try:
            import tensorflow_text
        except ImportError:
            return
        with tf.init_scope():  # outside of a graph that is being traced
            try:
                if self.processor is not None:
                    self.processor.tokenize([""])
                    return
            except tf.errors.NotFoundError:
                pass
            self.processor = tensorflow_text.SentencepieceTokenizer(self.tokenizer.proto)

    @tf.autograph.experimental.do_not_convert
    def tokenize(self, inputs: Any, control_tokens: bool) -> Any:
        """One text: its ids, dense. A vector of texts: a ragged tensor, or a dense one of
        `sequence_length` columns."""
        tokenizer = self.tokenizer
        texts = as_vector(inputs)
        ids = self.ids(texts, control_tokens)
        first, last = [tokenizer.start_token_id], [tokenizer.end_token_id]
        ids = with_ends(ids, first * tokenizer.add_bos, last * tokenizer.add_eos)
        if tokenizer.dtype == "string":
            ids = tf.ragged.map_flat_values(tf.gather, tokenizer.get_vocabulary(), ids)
        elif tokenizer.dtype != "int32":
            ids = tf.cast(ids, tokenizer.dtype)
        if length := tokenizer.sequence_length:
            pad = tokenizer.pad_token if tokenizer.dtype == "string" else tokenizer.pad_token_id
            ids = ids.to_tensor(pad, shape=[None, length])
        return ids if inputs.shape.rank else ids[0]

    @tf.autograph.experimental.do_not_convert
    def detokenize(self, inputs: Any) -> Any:
        """A text for each row of ids; one text for one row."""
        one = inputs.shape.rank == 1
        rows = tf.expand_dims(inputs, 0) if one else inputs
        if self.processor is not None:
            texts = self.processor.detokenize(tf.cast(rows, tf.int32))
        else:
            rows = rows if isinstance(rows, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(rows)
            texts = tf.numpy_function(
                self._decode_rows, [rows.flat_values, rows.row_lengths()], tf.string
            )
            texts.set_shape([None])
        return texts[0] if one else texts

    def ids(self, texts: Any, control_tokens: bool) -> Any:
        """int32 ids of a vector of texts, ragged, without `<bos>`, `<eos>` or padding."""
        if self.processor is not None and control_tokens:
            return self.processor.tokenize(texts)
        if self.processor is not None and self.cuts_in_graph:
            return self._ids_of_parts(texts)

        def encode(texts):
            rows = self.tokenizer.encode_batch([t.decode("utf-8") for t in texts], control_tokens)
            flat = np.array([i for row in rows for i in row], np.int32)
            return flat, np.array([len(row) for row in rows], np.int64)

        flat, lengths = tf.numpy_function(encode, [texts], [tf.int32, tf.int64])
        flat.set_shape([None])
        lengths.set_shape([None])
        return tf.RaggedTensor.from_row_lengths(flat, lengths, validate=False)

    def _ids_of_parts(self, texts):
        """What `TextParts.cut` and `encode_batch` do, for a whole vector at once."""
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")  # mends what is not UTF-8
        for start, rests in self.names.items():
            texts = tf.strings.regex_replace(texts, f"({start})({rests})", b"\\1" + CUT + b"\\2")
        if self.tokenizer.parts.whitespace_mark:
            mark = WHITESPACE_MARK.encode()
            texts = tf.strings.regex_replace(texts, mark, CUT + mark + CUT)
        parts = tf.strings.split(texts, CUT)
        ids = self._with_marks(parts.flat_values)
        rows = tf.gather(parts.value_rowids(), ids.value_rowids())
        return tf.RaggedTensor.from_value_rowids(
            ids.flat_values, rows, parts.nrows(), validate=False
        )

    def _with_marks(self, parts):
        if not self.tokenizer.parts.whitespace_mark:
            return self.processor.tokenize(parts)
        is_mark = tf.equal(parts, WHITESPACE_MARK)
        ids = self.processor.tokenize(tf.where(is_mark, "", parts))
        marks = tf.tile(self.tokenizer.mark_ids, [tf.math.count_nonzero(is_mark, dtype=tf.int32)])
        lengths = tf.cast(is_mark, tf.int64) * len(self.tokenizer.mark_ids)
        return tf.concat([ids, tf.RaggedTensor.from_row_lengths(marks, lengths, validate=False)], 1)

    def _decode_rows(self, flat, lengths):
        rows = np.split(flat, np.cumsum(lengths)[:-1])[: len(lengths)]
        return np.array([text.encode() for text in map(self.tokenizer.detokenize, rows)], object)


def as_vector(texts: Any) -> Any:
    """A tensor of strings as a vector of them."""
    if texts.dtype != tf.string or texts.shape.rank not in (0, 1):
        raise TypeError(
            f"A text or a vector of texts was awaited, not a tensor of {texts.dtype.name} of "
            f"shape {texts.shape}."
        )
    return texts if texts.shape.rank else tf.expand_dims(texts, 0)


def with_ends(ids: Any, first: list[int], last: list[int]) -> Any:
    """Every row with `first` before it and `last` after it."""
    count = ids.nrows()
    ends = [tf.tile(tf.constant([end], ids.dtype), [count, 1]) for end in (first, last) if end]
    return tf.concat([*ends[: bool(first)], ids, *ends[bool(first) :]], 1) if ends else ids
