"""The training loss: cross-entropy of each next token, averaged over the tokens that count.

B batch, T tokens, D model width, V vocabulary.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gemma.models.cross_entropy import Head, cross_entropy


class TokenMeans(NamedTuple):
    """Means over the tokens of a batch, each weighted, 0 if none counts; scalars, float32."""

    loss: Any  # nats
    accuracy: Any  # 1 where the likeliest token is the right one
    weight: Any  # of all tokens together


def log_probabilities(logits_BTV, labels_BT):
    """The log-probability of each label, float32 BT."""
    logits_BTV = ops.cast(logits_BTV, "float32")
    chosen_BT = ops.take_along_axis(logits_BTV, labels_BT[:, :, None], axis=-1)[:, :, 0]
    return chosen_BT - ops.logsumexp(logits_BTV, axis=-1)


def token_means(head, hidden_BTD, labels_BT, weights_BT=None, training=True) -> TokenMeans:
    """Loss and accuracy from hidden states.

    Taking hidden states, this is the one place that ever needs to see logits while training: a chunk of them at a time.
    `head` is a `Head`, or a function that makes logits BTV of hidden states.
    """
    labels_BT = ops.cast(labels_BT, "int32")
    weights_BT = _per_token(labels_BT, weights_BT)
    of = cross_entropy if isinstance(head, Head) else _of_logits
    weight = ops.sum(weights_BT)
    whole = ops.maximum(weight, 1e-9)
    if ops.dtype(hidden_BTD) == "float16":
        # A mean's gradient by one logit is too small for it: what scales a loss up comes after this.
        loss, correct = of(hidden_BTD, head, labels_BT, weights_BT, training)
        return TokenMeans(loss / whole, correct / whole, weight)
    # Each token weighs its share of the mean, so that no gradient as large as a table is divided afterwards.
    return TokenMeans(*of(hidden_BTD, head, labels_BT, weights_BT / whole, training), weight)


def _of_logits(hidden_BTD, logits_of, labels_BT, weights_BT, training):
    logits_BTV = logits_of(hidden_BTD)
    right_BT = ops.equal(ops.cast(ops.argmax(logits_BTV, axis=-1), "int32"), labels_BT)
    loss = -ops.sum(weights_BT * log_probabilities(logits_BTV, labels_BT))
    return loss, ops.sum(weights_BT * ops.cast(right_BT, "float32"))


def token_weight(labels_BT, weights_BT=None):
    """How many tokens count, each weighted; a scalar, float32."""
    return ops.sum(_per_token(labels_BT, weights_BT))


def _per_token(labels_BT, weights):
    weights = ops.ones_like(labels_BT) if weights is None else weights
    weights = ops.cast(weights, "float32")
    weights = weights[:, None] if len(weights.shape) == 1 else weights
    return ops.broadcast_to(weights, ops.shape(labels_BT))


class _OverTokens(keras.metrics.Metric):
    """A mean over all tokens seen since the last reset, each weighted, float32 whatever Keras's `floatx` is."""

    best: str  # "min" or "max"

    def __init__(self, name: str):
        super().__init__(name=name, dtype="float32")
        self.total = self.add_variable((), "zeros", name="total")
        self.weight = self.add_variable((), "zeros", name="weight")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """With labels BT, logits BTV and weights: as somebody's own `train_step` calls it."""
        self.count(token_means(lambda logits_BTV: logits_BTV, y_pred, y_true, sample_weight, False))

    def count(self, means: TokenMeans, extra: Any = 0.0):
        """With a batch's means; `extra` is what its loss has beside theirs."""
        raise NotImplementedError

    def mean(self, total):
        """What a total is for each token."""
        return total / ops.maximum(self.weight, 1e-9)


class Accuracy(_OverTokens):
    """The share of tokens that are the likeliest."""

    best = "max"

    def count(self, means, extra=0.0):
        self.total.assign_add(means.accuracy * means.weight)
        self.weight.assign_add(means.weight)

    def result(self):
        return self.mean(self.total)


class Perplexity(_OverTokens):
    """`exp` of the mean loss; and that mean, as `loss`.

    Keras's own mean of losses counts batches by their rows: it depends on how texts are cut into batches.
    """

    best = "min"

    def __init__(self, name: str):
        super().__init__(name)
        self.extra = self.add_variable((), "zeros", name="extra")

    def count(self, means, extra=0.0):
        self.total.assign_add(means.loss * means.weight)
        self.extra.assign_add(extra * means.weight)
        self.weight.assign_add(means.weight)

    def result(self):
        loss = self.mean(self.total)
        return {"loss": loss + self.mean(self.extra), self.name: ops.exp(loss)}


class TokenMetrics:
    """Accuracy and perplexity, fed from what the loss is made of anyway."""

    def __init__(self):
        self.all = [Accuracy("accuracy"), Perplexity("perplexity")]

    def count(self, means: TokenMeans, extra: Any) -> None:
        """With a batch's means; `extra` is what its loss has beside theirs."""
        for metric in self.all:
            metric.count(means, extra)

    def explain_to(self, callbacks: Iterable[Any]) -> None:
        """Tell callbacks that are to find out which way a metric gets better; Keras looks among its own."""
        best = {metric.name: metric.best for metric in self.all}
        for callback in callbacks:
            name = (getattr(callback, "monitor", None) or "").removeprefix("val_")
            if name in best and getattr(callback, "mode", None) == "auto":
                callback.mode = best[name]
