"""Texts to rows for models that read a text whole: classifiers and embedders."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras

from keras_gemma.text.packing import one_per_row
from keras_gemma.text.preprocessor import Preprocessor, checked_length
from keras_gemma.text.tokenizer import Gemma3Tokenizer, GemmaTokenizer
from keras_gemma.text.tokenizer_inputs import flat_texts, is_tf_tensor


@keras.saving.register_keras_serializable(package="keras_gemma")
class GemmaTextClassifierPreprocessor(Preprocessor):
    """Prepares text for `GemmaTextClassifier`: `<bos> text <eos>`, one text a row.

    A tuple of columns is texts of several parts, such as premises and hypotheses: `<bos> one <eos>
    two <eos>`. What is too long loses tokens at the end of its longest part. Control tokens written
    in a text never act: a text that is judged may be anybody's.

        preprocessor = GemmaTextClassifierPreprocessor.from_preset("gemma_tiny_en")
        x, y = preprocessor(["Well done.", "Never again."], [1, 0])

    Args:
        tokenizer: a `GemmaTokenizer`.
        sequence_length: most tokens of a row; may be set later, too.
    """

    preset_class = "GemmaTextClassifierPreprocessor"
    kinds = ("TextClassifierPreprocessor", "TextEmbedderPreprocessor")
    options: ClassVar = {"name": str, "sequence_length": int}
    # KerasHub has several ways to shorten texts of several parts; they differ in nothing else.
    ignored = Preprocessor.ignored | {"truncate"}

    def __init__(
        self,
        tokenizer: GemmaTokenizer,
        sequence_length: int = 512,
        *,
        name: str = "gemma_text_classifier_preprocessor",
        **kwargs: Any,
    ):
        super().__init__(tokenizer, sequence_length, name, **kwargs)

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
        width: Callable[[int], int] | None = None,
    ) -> Any:
        """Rows of T tokens; `y` and `sample_weight` pass as they are.

        Args:
            x: a text, a list of texts, or a tuple of such for texts of several parts; TensorFlow
                tensors of texts, as in `tf.data.Dataset.map`.
            y: labels, if there are any.
            sample_weight: weights, if there are any.
            sequence_length: the longest row of this call.
            width: gives T for the longest row at hand; if left out, T is `sequence_length`.

        Returns:
            `{"token_ids", "padding_mask"}`, integers of shape `(B, T)`, or `(T,)` for one text;
            with what came beside it as `(x, y)` or `(x, y, sample_weight)`.
        """
        limit = checked_length(sequence_length or self.sequence_length)
        parts = x if isinstance(x, tuple) else (x,)
        if is_tf_tensor(parts[0]):
            from keras_gemma.text.graph_rows import rows_of_parts

            batch = rows_of_parts(self, parts, limit, width)
        else:
            _, batched = flat_texts(parts[0])
            batch = self.padded(self.rows(x, limit), limit, width)
            batch = batch if batched else {key: value[0] for key, value in batch.items()}
        return keras.utils.pack_x_y_sample_weight(batch, y, sample_weight)

    def rows(self, x: Any, limit: int | None = None) -> list[list[int]]:
        """Ids of each text, `<bos>` and `<eos>` among them, at most `limit` or `sequence_length`."""
        columns = [flat_texts(part)[0] for part in (x if isinstance(x, tuple) else (x,))]
        if len({len(column) for column in columns}) != 1:
            counts = ", ".join(str(len(column)) for column in columns)
            raise ValueError(f"Texts of several parts need as many of each, not {counts}.")
        first, last = self.tokenizer.start_token_id, self.tokenizer.end_token_id
        room = max((limit or self.sequence_length) - 1 - len(columns), 0)
        encoded = [self.tokenizer.encode_batch(column, control_tokens=False) for column in columns]
        rows = []
        for parts in zip(*encoded):
            kept = shares(list(map(len, parts)), room)
            row = [first]
            for part, count in zip(parts, kept):
                row += [*part[:count], last]
            rows.append(row)
        return rows

    def padded(
        self, rows: list[list[int]], limit: int, width: Callable[[int], int] | None = None
    ) -> dict[str, Any]:
        """Rows of ids as what the model is given."""
        length = min(width(max(map(len, rows), default=1)), limit) if width else limit
        ids, mask, _ = one_per_row(rows, length, None, self.tokenizer.pad_token_id)
        return {"token_ids": ids, "padding_mask": mask}


@keras.saving.register_keras_serializable(package="keras_gemma")
class GemmaTextEmbedderPreprocessor(GemmaTextClassifierPreprocessor):
    """As `GemmaTextClassifierPreprocessor`, for `GemmaTextEmbedder`."""

    preset_class = "GemmaTextEmbedderPreprocessor"

    def __init__(
        self,
        tokenizer: GemmaTokenizer,
        sequence_length: int = 256,
        *,
        name: str = "gemma_text_embedder_preprocessor",
        **kwargs: Any,
    ):
        super().__init__(tokenizer, sequence_length, name=name, **kwargs)


@keras.saving.register_keras_serializable(package="keras_gemma")
class Gemma3TextClassifierPreprocessor(GemmaTextClassifierPreprocessor):
    """`GemmaTextClassifierPreprocessor` for Gemma 3 (text)."""

    preset_class = "Gemma3TextClassifierPreprocessor"
    tokenizer_class = Gemma3Tokenizer


@keras.saving.register_keras_serializable(package="keras_gemma")
class Gemma3TextEmbedderPreprocessor(GemmaTextEmbedderPreprocessor):
    """`GemmaTextEmbedderPreprocessor` under the name that KerasHub gives it for Gemma 3 (text)."""

    preset_class = "Gemma3TextEmbedderPreprocessor"
    tokenizer_class = Gemma3Tokenizer


def shares(lengths: list[int], room: int) -> list[int]:
    """How many tokens of each part are kept, so that all fit: the longest parts give first.

    >>> shares([3, 10, 20], 15), shares([3, 1], 9)
    ([3, 6, 6], [3, 1])
    """
    kept, left = [0] * len(lengths), room
    for rank, part in enumerate(sorted(range(len(lengths)), key=lengths.__getitem__)):
        kept[part] = min(lengths[part], left // (len(lengths) - rank))
        left -= kept[part]
    return kept
