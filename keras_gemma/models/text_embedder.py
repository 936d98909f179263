"""GemmaTextEmbedder: a vector for a text, near to those of texts that mean the like."""

from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np

from keras_gemma.layers import UnitLength
from keras_gemma.models.backbone import Gemma3Backbone, GemmaBackbone
from keras_gemma.models.in_batch_negatives import InBatchNegatives
from keras_gemma.models.labelled_texts import LabelledTexts
from keras_gemma.models.text_head import TextHead
from keras_gemma.optimizers import AdamW
from keras_gemma.text import Gemma3TextEmbedderPreprocessor, GemmaTextEmbedderPreprocessor

PAIRS = {"queries", "documents"}


@keras.saving.register_keras_serializable(package="keras_gemma")
class GemmaTextEmbedder(TextHead):
    """Gemma as a reader that gives one float32 vector a text, whatever stands beside it in a batch.

    `fit` takes `{"queries": [...], "documents": [...]}`, the n-th document being what the n-th query
    looks for; or texts with the labels that a loss of your own takes.

        embedder = GemmaTextEmbedder.from_preset("gemma_tiny_en")
        embedder.fit({"queries": ["What purrs?"], "documents": ["A cat does."]}, batch_size=32)
        embedder.similarity(embedder.encode_text("Which pet?"), embedder.encode_text(["A cat."]))

    Args:
        backbone: a `GemmaBackbone`.
        preprocessor: a `GemmaTextEmbedderPreprocessor`; or `None`, and then inputs are
            `{"token_ids", "padding_mask"}` everywhere a text would do.
        pooling_mode: what a text becomes: the state of its `"last"` token, or the `"mean"` of all.
        normalize: whether vectors have length 1.
    """

    backbone_class = GemmaBackbone
    preprocessor_class = GemmaTextEmbedderPreprocessor
    kind = "TextEmbedder"
    options: ClassVar = {"pooling_mode": str, "normalize": bool}

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        pooling_mode: str = "last",
        normalize: bool = True,
        **kwargs: Any,
    ):
        def head(x_BD):
            return UnitLength(dtype="float32", name="unit_length")(x_BD) if normalize else x_BD

        super().__init__(backbone, preprocessor, head, pooling_mode, **kwargs)
        self.normalize = normalize
        self.compile()

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", *, remat: bool = False, **kwargs: Any
    ):
        """Choose how to train; every default is ready to use.

        Args:
            optimizer: `"auto"` is `keras_gemma.optimizers.AdamW(5e-5)`.
            loss: `"auto"` is `InBatchNegatives()`. Any loss of Keras between labels and vectors
                will do.
            remat: rematerialization: `fit` keeps of each decoder block its input only, and computes
                the rest again for the gradient, in a third more time.
            **kwargs: as in `keras.Model.compile`.
        """
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = AdamW(5e-5)
        if isinstance(loss, str) and loss == "auto":
            loss = InBatchNegatives()
        super().compile(optimizer=optimizer, loss=loss, remat=remat, **kwargs)

    def encode_text(self, text: str | list[str], **kwargs: Any) -> np.ndarray:
        """Vectors of texts, `(texts, hidden_dim)`; `predict` under KerasHub's name."""
        return self.predict(text, **kwargs)

    def similarity(self, query_embeddings: Any, document_embeddings: Any) -> np.ndarray:
        """Products of vectors, `(queries, documents)`: cosines, if they have length 1."""
        return np.asarray(query_embeddings) @ np.asarray(document_embeddings).T

    def _is_text(self, x):
        return super()._is_text(x) or (isinstance(x, Mapping) and set(x) == PAIRS)

    def _batches(self, x, y, weights, batch_size, order):
        if not isinstance(x, Mapping):
            return super()._batches(x, y, weights, batch_size, order)
        queries, documents = x["queries"], x["documents"]
        if len(queries) != len(documents) or y is not None:
            raise ValueError(
                f"There are {len(queries)} queries and {len(documents)} documents; each query needs "
                "one document, and labels are made here: leave y out."
            )
        texts = [text for pair in zip(queries, documents) for text in pair]
        labels = np.repeat(np.arange(len(queries)), 2)
        weights = None if weights is None else np.repeat(weights, 2)
        kept = {"batch_size": batch_size, "order": order, "group": 2}
        return LabelledTexts(self._preprocess, texts, labels, weights, **kept)


@keras.saving.register_keras_serializable(package="keras_gemma")
class Gemma3TextEmbedder(GemmaTextEmbedder):
    """`GemmaTextEmbedder` under the name that KerasHub gives it for Gemma 3 (text)."""

    backbone_class = Gemma3Backbone
    preprocessor_class = Gemma3TextEmbedderPreprocessor
