"""The model people hold: text in, text out; trained with `fit`."""

import contextlib
import sys
import types
from typing import Any

import keras

from keras_gemma import samplers
from keras_gemma.generation import CACHES
from keras_gemma.models.backbone import Gemma3Backbone, GemmaBackbone
from keras_gemma.models.cross_entropy import Head
from keras_gemma.models.draft import check_draft
from keras_gemma.models.fit_data import (
    BESIDE_TEXT,
    is_text,
    is_tf_dataset,
    split,
    to_batches,
    warn_of_losses,
)
from keras_gemma.models.fit_run import fit_run
from keras_gemma.models.kept_values import keeping_values
from keras_gemma.models.preset_model import PresetTask
from keras_gemma.models.scoring import Scoring
from keras_gemma.models.step_memory import memory_for_steps
from keras_gemma.models.text_generation import TextGeneration
from keras_gemma.models.token_loss import TokenMetrics, token_means, token_weight
from keras_gemma.optimizers import AdamW, expect_weights, gradients_weigh
from keras_gemma.text import Gemma3CausalLMPreprocessor, GemmaCausalLMPreprocessor

PLANS = ("auto", "none")


@keras.saving.register_keras_serializable(package="keras_gemma")
class GemmaCausalLM(TextGeneration, Scoring, PresetTask):
    """Gemma as a language model: logits for the next token, text generation and training.

    Args:
        backbone: a `GemmaBackbone`.
        preprocessor: a `GemmaCausalLMPreprocessor`; or `None`, and then inputs are
            `{"token_ids", "padding_mask"}` everywhere a text would do.

    Attributes:
        context_length: tokens of the longest text it generates: as models of this kind were
            published, 8,192 say. May be set.
        reports_tokens: whether `fit` and `evaluate` report means over tokens.
    """

    backbone_class = GemmaBackbone
    predicts_tokens = True
    preprocessor_class = GemmaCausalLMPreprocessor

    def __init__(self, backbone: Any, preprocessor: Any = None, **kwargs: Any):
        inputs = backbone.input
        logits = backbone.token_embedding(backbone(inputs), reverse=True)
        super().__init__(inputs=inputs, outputs=logits, **kwargs)
        self.dtype_policy = backbone.dtype_policy
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.context_length = backbone.config.context_length
        self.token_metrics = TokenMetrics()
        self._generation_engine = None
        self._wants_hidden_states = self._is_in_step = False
        self.compile()

    # --- training ---

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        *,
        weighted_metrics: Any = "auto",
        sampler: Any = "greedy",
        plan: str = "auto",
        cache: str = "full",
        prefix_bytes: int | None = None,
        draft: Any = None,
        remat: bool = False,
        **kwargs: Any,
    ) -> None:
        """Choose how to train and how to sample; every default is ready to use.

        Args:
            optimizer: `"auto"` is `keras_gemma.optimizers.AdamW(1e-4)`.
            loss: `"auto"` is the cross-entropy averaged over the tokens that count, taken from
                hidden states. A loss of your own is given logits.
            weighted_metrics: `"auto"` is token accuracy and perplexity, at no extra cost with
                the automatic loss.
            sampler: a name (`"greedy"`, `"top_k"`, `"top_p"`, `"random"`) or an object of
                `keras_gemma.samplers`.
            plan: how generation reads the weights. `"auto"` keeps a copy of the layers' weights in
                the layout that the backend reads fastest, made at the first `generate` and anew
                after they changed; `"none"` reads the variables, and needs no memory beside them.
            cache: how keys and values of a text are remembered: `"full"`, as they are, or
                `"int8"`, in half the memory of bfloat16 and a quarter of float32's.
            prefix_bytes: most memory for texts that are remembered after they ended, so that a
                prompt that begins like one of them (the next turn of a chat, a system text) is
                read from where it differs. `None` is an eighth of the weights', 0 none.
            draft: what guesses tokens, to be checked several at once: `"prompt_lookup"`, for
                answers that repeat parts of their prompt, or a smaller `GemmaCausalLM` with the
                same tokenizer. The text is the same, drawn or not; whether it comes faster depends
                on how much of it is guessed. Not saved with the model, if it is one.
            remat: rematerialization: `fit` keeps of each decoder block its input only, and computes
                the rest again for the gradient. A third more time, for activations of one block
                instead of all.
            **kwargs: as in `keras.Model.compile`.
        """
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = AdamW(1e-4)
        self._automatic_loss = isinstance(loss, str) and loss == "auto"
        automatic_metrics = isinstance(weighted_metrics, str) and weighted_metrics == "auto"
        self.reports_tokens = automatic_metrics and self._automatic_loss
        if automatic_metrics:
            accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
            weighted_metrics = None if self._automatic_loss else [accuracy]
        self._compile_loss = self._compile_metrics = None  # else Keras keeps those of before
        super().compile(
            optimizer=optimizer,
            loss=None if self._automatic_loss else loss,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )
        expect_weights(self.optimizer)
        # Logits are made only where somebody asked for them.
        others = kwargs.get("metrics") or _overrides(type(self))
        self._trains_on_hidden_states = self._automatic_loss and not (others or weighted_metrics)
        # Of rows of padding, only what weighs tokens knows that they count nothing.
        self._takes_padding = self._automatic_loss and not others
        for name, value, known in (("plan", plan, PLANS), ("cache", cache, CACHES)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
        if prefix_bytes is not None and not prefix_bytes >= 0:
            raise ValueError(f"prefix_bytes must be 0 or more, or None, not {prefix_bytes!r}.")
        self.sampler, self.plan, self.cache = samplers.get(sampler), plan, cache
        check_draft(draft)
        self.prefix_bytes = prefix_bytes
        self._set_remat(remat)
        self._get_draft = lambda: draft  # as an attribute, Keras would make it a part of this model
        self._generation_engine = None  # it is built for one sampler, plan and cache

    @property
    def draft(self) -> Any:
        """What guesses tokens, as `compile` was given it."""
        return self._get_draft()

    def get_compile_config(self):
        config = super().get_compile_config()
        if self._automatic_loss:
            config["loss"] = "auto"
        if self.reports_tokens:
            config["weighted_metrics"] = "auto"
        config |= {"plan": self.plan, "cache": self.cache, "prefix_bytes": self.prefix_bytes}
        config["remat"] = self.remat
        config["draft"] = self.draft if isinstance(self.draft, str) else None
        config["sampler"] = keras.saving.serialize_keras_object(self.sampler)
        return config

    def fit(self, x=None, y=None, batch_size=None, epochs=1, **kwargs: Any):
        """Train on texts, `{"prompts", "responses"}`, conversations, or batches of integers.

        As `keras.Model.fit`. Texts as lists, columns, records of `keras_gemma.data.read`, a `Path`,
        `tf.data`, `PyDataset`, Grain, data loaders and generators go through the preprocessor;
        arrays and data sets of `(inputs, labels, weights)` pass as they are. A generator of texts is
        read to its end first, unless `steps_per_epoch` says how much of it an epoch takes. What
        became of the data is then in `data_report`; a warning says what is cut or left out.
        """
        self._warn_of_standstill()
        # A `tf.data.Dataset` comes in an order of its own; Keras warns of the default.
        shuffle = kwargs.setdefault("shuffle", not is_tf_dataset(x))
        if is_text(x):
            if y is not None or kwargs.get("sample_weight") is not None:
                raise ValueError(BESIDE_TEXT)
            if kwargs.get("class_weight") is not None:
                raise ValueError(
                    "class_weight is for labels that are classes; tokens have weights of their own."
                )
            share = kwargs.pop("validation_split", 0)
            if share and kwargs.get("validation_data") is None:
                x, kwargs["validation_data"] = split(x, share)
        validation = kwargs.pop("validation_data", None)
        if validation is not None:
            if isinstance(validation, tuple) and len(validation) == 1:
                validation = validation[0]
            steps = kwargs.get("validation_steps")
            kwargs["validation_data"], report = self._batches(validation, batch_size, steps)
            warn_of_losses(report)
        steps = kwargs.get("steps_per_epoch")
        x, self.data_report = self._batches(x, batch_size, steps, shuffle=shuffle)
        if isinstance(x, types.GeneratorType):  # Keras warns that it can't shuffle one
            kwargs["shuffle"] = False
        warn_of_losses(self.data_report)
        if self._generation_engine is not None:  # a plan would be old after one step
            self._generation_engine.forget()
        if self.reports_tokens:
            self.token_metrics.explain_to(keras.tree.flatten(kwargs.get("callbacks") or []))
        batch_size = _unless_batched(x, batch_size)
        room = memory_for_steps(self, x, batch_size)
        run = fit_run(self, x, kwargs, y, kwargs.get("sample_weight"))
        with room, keeping_values(self, kwargs), run:
            history = super().fit(x, y, batch_size=batch_size, epochs=epochs, **kwargs)
        warn_of_losses(self.data_report, at_end=True)
        return history

    def evaluate(self, x=None, y=None, batch_size=None, **kwargs: Any):
        """Loss, accuracy and perplexity on held-out data, given as to `fit`."""
        if not kwargs.get("_use_cached_eval_dataset"):  # by `fit`, which has prepared it
            x, report = self._batches(x, batch_size, kwargs.get("steps"))
            warn_of_losses(report)
        batch_size = _unless_batched(x, batch_size)
        with keeping_values(self, kwargs):
            return super().evaluate(x, y, batch_size=batch_size, **kwargs)

    def predict(self, x, batch_size=None, **kwargs: Any):
        """Logits of texts or of batches of integers, as `keras.Model.predict`."""
        x, report = self._batches(x, batch_size, kwargs.get("steps"), filled=False)
        warn_of_losses(report)
        batch_size = _unless_batched(x, batch_size)
        with keeping_values(self, kwargs):
            return super().predict(x, batch_size=batch_size, **kwargs)

    def _batches(self, x, batch_size, steps=None, shuffle=False, filled=None):
        filled = self._takes_padding if filled is None else filled
        return to_batches(x, self.preprocessor, batch_size, shuffle, steps, filled)

    def _one_batch(self, x, y=None, weights=None):
        if not is_text(x):
            return x, y, weights
        if y is not None or weights is not None:
            raise ValueError(BESIDE_TEXT)
        batches, report = self._batches(x, sys.maxsize)
        warn_of_losses(report)
        return batches[0]

    @property
    def metrics(self):
        return super().metrics + (self.token_metrics.all if self.reports_tokens else [])

    def call(self, inputs, training=None, mask=None):
        if self._wants_hidden_states:
            return self.backbone(inputs, training=training)
        return super().call(inputs, training=training, mask=mask)

    @contextlib.contextmanager
    def _step(self):
        """While a step of `fit` or `evaluate` is traced or run, `call` gives hidden states, and the loss feeds metrics."""
        self._is_in_step, self._wants_hidden_states = True, self._trains_on_hidden_states
        try:
            yield
        finally:
            self._is_in_step = self._wants_hidden_states = False

    def train_step(self, *args, **kwargs):
        *_, data = args  # before it, on JAX, the state
        tied = self.backbone.token_embedding.tied(self._trains_on_hidden_states)
        weighed = gradients_weigh(self.optimizer, self._weight_of(data))
        with self._step(), tied, weighed:
            return super().train_step(*args, **kwargs)

    def test_step(self, *args, **kwargs):
        with self._step():
            return super().test_step(*args, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not self._automatic_loss:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        head = self._head() if self._wants_hidden_states else _unchanged
        means = token_means(head, y_pred, y, sample_weight, training)
        # What a user's regularizers add.
        extra = sum((keras.ops.cast(loss, means.loss.dtype) for loss in self.losses), 0.0)
        if self.reports_tokens and self._is_in_step:
            self.token_metrics.count(means, extra)
        return means.loss + extra

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if self.reports_tokens and not self._is_in_step:  # of a user's own step, with logits
            self.token_metrics.count(token_means(_unchanged, y_pred, y, sample_weight, False), 0.0)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _weight_of(self, data):
        """What a batch's gradient weighs among those that are accumulated: its tokens, if the loss is their mean."""
        _, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        return token_weight(labels, weights) if self._automatic_loss else 1.0

    def _head(self):
        embedding = self.backbone.token_embedding
        return Head(
            embedding.table(), embedding.logit_soft_cap, bool(embedding.trainable_variables)
        )


@keras.saving.register_keras_serializable(package="keras_gemma")
class Gemma3CausalLM(GemmaCausalLM):
    """Gemma 3 (text) as a language model; all but the order of arguments is `GemmaCausalLM`'s."""

    backbone_class = Gemma3Backbone
    preprocessor_class = Gemma3CausalLMPreprocessor

    def __init__(self, preprocessor: Any, backbone: Any, **kwargs: Any):
        super().__init__(backbone, preprocessor, **kwargs)


def _unchanged(logits):
    return logits


def _overrides(model_class):
    """Whether a user's class sees what the model computes, which it must take for logits."""
    own = (model_class.compute_loss, model_class.compute_metrics)
    return own != (GemmaCausalLM.compute_loss, GemmaCausalLM.compute_metrics)


def _unless_batched(x, batch_size):
    """Keras refuses a batch size beside data that brings its own batches."""
    batched = isinstance(x, (keras.utils.PyDataset, types.GeneratorType)) or is_tf_dataset(x)
    return None if batched else batch_size
