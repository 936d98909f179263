"""GemmaTextClassifier: one of a few classes for a text."""

from numbers import Integral
from typing import Any, ClassVar

import keras
import numpy as np

from keras_gemma.models.backbone import Gemma3Backbone, GemmaBackbone
from keras_gemma.models.text_head import TextHead
from keras_gemma.optimizers import AdamW
from keras_gemma.text import Gemma3TextClassifierPreprocessor, GemmaTextClassifierPreprocessor


@keras.saving.register_keras_serializable(package="keras_gemma")
class GemmaTextClassifier(TextHead):
    """Gemma with a score for each class in place of one for each token.

    The head computes in float32 whatever the backbone does.

        classifier = GemmaTextClassifier.from_preset("gemma_tiny_en", num_classes=2)
        classifier.fit(["Well done.", "Never again."], [1, 0])
        classifier.predict(["Not bad."])

    Args:
        backbone: a `GemmaBackbone`.
        num_classes: how many classes there are; labels are 0, 1, … and less than this,
            or `False` and `True`.
        preprocessor: a `GemmaTextClassifierPreprocessor`; or `None`, and then inputs are
            `{"token_ids", "padding_mask"}` everywhere a text would do.
        activation: of the outputs: `"softmax"` for probabilities; logits if left out.
        hidden_dim: width of a layer (tanh) between text and classes; none if left out.
        dropout: share of the head's inputs that are left out in training.
        pooling_mode: what a text becomes: the state of its `"last"` token, or the `"mean"` of all.
    """

    backbone_class = GemmaBackbone
    preprocessor_class = GemmaTextClassifierPreprocessor
    kind = "TextClassifier"
    options: ClassVar = {
        "num_classes": int,
        "activation": str,
        "hidden_dim": int,
        "dropout": float,
        "pooling_mode": str,
    }

    def __init__(
        self,
        backbone: Any,
        num_classes: int,
        preprocessor: Any = None,
        activation: Any = None,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        pooling_mode: str = "last",
        **kwargs: Any,
    ):
        if (
            isinstance(num_classes, bool)
            or not isinstance(num_classes, Integral)
            or num_classes < 1
        ):
            raise ValueError(f"num_classes must be a whole number above 0, not {num_classes!r}.")
        num_classes, hidden_dim = int(num_classes), None if hidden_dim is None else int(hidden_dim)

        def head(x_BD):
            if hidden_dim:
                x_BD = keras.layers.Dropout(dropout, dtype="float32", name="pooled_dropout")(x_BD)
                x_BD = keras.layers.Dense(
                    hidden_dim, activation="tanh", dtype="float32", name="pooled_dense"
                )(x_BD)
            x_BD = keras.layers.Dropout(dropout, dtype="float32", name="output_dropout")(x_BD)
            # Small at first, however large hidden states are: every class is about as likely.
            small = keras.initializers.TruncatedNormal(stddev=0.02)
            return keras.layers.Dense(
                num_classes, activation, kernel_initializer=small, dtype="float32", name="logits"
            )(x_BD)

        super().__init__(backbone, preprocessor, head, pooling_mode, **kwargs)
        self.num_classes, self.hidden_dim, self.dropout = num_classes, hidden_dim, float(dropout)
        self.activation = keras.activations.get(activation)
        self.compile()

    @classmethod
    def from_preset(cls, preset, load_weights=True, dtype=None, **kwargs):
        """The classifier of a preset; of one without, a new one with `num_classes`.

        If `num_classes` is given, the head is new in any case. Other arguments are those of
        `GemmaCausalLM.from_preset`, and those of this class.
        """
        return super().from_preset(preset, load_weights, dtype, **kwargs)

    def _preset_options(self):
        activation = keras.activations.serialize(self.activation)
        return {**super()._preset_options(), "activation": activation}

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        *,
        metrics: Any = "auto",
        remat: bool = False,
        **kwargs: Any,
    ):
        """Choose how to train; every default is ready to use.

        Args:
            optimizer: `"auto"` is `keras_gemma.optimizers.AdamW(5e-5)`.
            loss: `"auto"` is the cross-entropy of whole-number labels.
            metrics: `"auto"` is accuracy.
            remat: rematerialization: `fit` keeps of each decoder block its input only, and computes
                the rest again for the gradient, in a third more time.
            **kwargs: as in `keras.Model.compile`.
        """
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = AdamW(5e-5)
        if isinstance(loss, str) and loss == "auto":
            from_logits = self.activation is not keras.activations.softmax
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        if isinstance(metrics, str) and metrics == "auto":
            metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, remat=remat, **kwargs)

    def _batches(self, x, y, weights, batch_size, order):
        # A class that is not there would be no error but a loss of 0 or NaN, as backends differ.
        if y is not None and isinstance(self.loss, keras.losses.SparseCategoricalCrossentropy):
            y = _checked(y, self.num_classes)
        return super()._batches(x, y, weights, batch_size, order)


@keras.saving.register_keras_serializable(package="keras_gemma")
class Gemma3TextClassifier(GemmaTextClassifier):
    """`GemmaTextClassifier` of Gemma 3 (text)."""

    backbone_class = Gemma3Backbone
    preprocessor_class = Gemma3TextClassifierPreprocessor


def _checked(labels, num_classes):
    """Labels, seen to be classes there are, as whole numbers."""
    labels = np.asarray(labels)
    awaited = f"Labels are whole numbers from 0 to {num_classes - 1}"
    strange = labels.ravel()[: 0 if labels.dtype.kind in "biu" else 1]
    if labels.dtype.kind == "f":
        is_whole = np.isfinite(labels) & (labels == np.rint(labels))
        strange = labels[~is_whole][:1]
    if len(strange):
        raise ValueError(f"{awaited}, not such as {strange.tolist()} ({labels.dtype}).")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(f"{awaited}; label {wrong[0]} is {labels.ravel()[wrong[0]]}.")
    return labels if labels.dtype.kind in "iu" else labels.astype("int32")
