"""How `fit`, `evaluate` and `predict` cut data into batches, and that no number depends on it."""

import keras
import numpy as np
import pytest
from conftest import SIZES, close
from keras import ops

from keras_gemma.models import GemmaBackbone, GemmaCausalLM
from keras_gemma.models.fit_data import split_at
from keras_gemma.models.token_loss import TokenMeans, TokenMetrics
from keras_gemma.text import GemmaCausalLMPreprocessor

TEXTS = ["a cat", "it was a dog and then a cat that went home", "hi", "a dog sat", "no one"]
LENGTH = 48


def make(tokenizer, model_class=GemmaCausalLM, **options):
    keras.utils.set_random_seed(0)
    sizes = {**SIZES, "vocabulary_size": tokenizer.vocabulary_size(), "num_layers": 1}
    model = model_class(GemmaBackbone(**sizes), GemmaCausalLMPreprocessor(tokenizer, LENGTH))
    model.compile(keras.optimizers.SGD(options.pop("learning_rate", 0.0)), **options)
    return model


def losses_of(model, texts):
    """The loss of each token and what it weighs, from logits, by NumPy."""
    x, labels, weights = model.preprocessor(texts)
    logits = np.float64(ops.convert_to_numpy(model(x)))
    logits -= logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, np.asarray(labels)[:, :, None], -1)[:, :, 0]
    return np.log(np.exp(logits).sum(-1)) - chosen, np.asarray(weights)


def test_the_loss_is_that_of_all_tokens_however_they_are_cut(tokenizer):
    model = make(tokenizer)
    losses, weights = losses_of(model, TEXTS)
    awaited = (losses * weights).sum() / weights.sum()
    for size in (2, 5):
        found = model.evaluate(TEXTS, batch_size=size, verbose=0, return_dict=True)
        close([found["loss"], np.log(found["perplexity"])], [awaited, awaited], 1e-5)
        history = model.fit(TEXTS, validation_data=TEXTS, batch_size=size, verbose=0).history
        close([history["loss"][0], history["val_loss"][0]], [awaited, awaited], 1e-5)


def test_what_a_regularizer_adds_is_in_the_loss_and_not_in_perplexity(tokenizer):
    model = make(tokenizer)
    before = model.evaluate(TEXTS, batch_size=2, verbose=0, return_dict=True)
    model.backbone.token_embedding.embeddings.regularizer = keras.regularizers.L2(0.1)
    model.compile(keras.optimizers.SGD(0.0))
    after = model.evaluate(TEXTS, batch_size=2, verbose=0, return_dict=True)
    added = float(sum(ops.convert_to_numpy(loss) for loss in model.losses))
    assert added > 0.01
    close(after["loss"], before["loss"] + added, 1e-4)
    close(after["perplexity"], before["perplexity"], 1e-4)


@pytest.mark.parametrize("size", [2, None])
def test_a_loss_of_ones_own_sees_only_the_rows_that_were_given(tokenizer, size):
    own = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = make(tokenizer, loss=own, metrics=["sparse_categorical_accuracy"])
    losses, weights = losses_of(model, TEXTS[:3])
    history = model.fit(TEXTS[:3], batch_size=size, shuffle=False, verbose=0).history
    close(history["loss"][0], (losses * weights).mean(), 1e-4)


def test_predict_gives_the_rows_that_were_given(tokenizer):
    model = make(tokenizer)
    awaited = ops.convert_to_numpy(model(model.preprocessor(TEXTS)[0]))
    for size in (None, 2):
        close(model.predict(TEXTS, batch_size=size, verbose=0), awaited, 1e-5)
    close(model.predict_on_batch(TEXTS[:2]), awaited[:2], 1e-5)


def test_one_batch_may_be_texts(tokenizer):
    model = make(tokenizer, learning_rate=1.0)
    awaited = model.evaluate(TEXTS, verbose=0, return_dict=True)
    for data in (TEXTS, np.array(TEXTS)):
        close(model.test_on_batch(data, return_dict=True)["loss"], awaited["loss"], 1e-5)
        model.reset_metrics()
    model.train_on_batch(TEXTS)
    assert model.evaluate(TEXTS, verbose=0, return_dict=True)["loss"] < awaited["loss"]
    model.train_on_batch({"prompts": TEXTS[:2], "responses": TEXTS[3:]})
    with pytest.raises(ValueError, match="Text brings its own labels"):
        model.train_on_batch(TEXTS, np.zeros((5, LENGTH)))


def test_a_batch_that_does_not_fit_leaves_the_weights(tokenizer):
    model = make(tokenizer)
    before = model.generate("a", max_length=8)
    x, y, weights = model.preprocessor(TEXTS)
    steps = [
        lambda: model.fit(x, y[:, :-1], verbose=0),
        lambda: model.fit(x, verbose=0),
        lambda: model.evaluate(x, y[:, :-1], verbose=0),
        lambda: model.fit(x, y, sample_weight=weights[:, :-3], verbose=0),
    ]
    for step in steps:
        with pytest.raises(Exception):  # noqa: B017 - each backend has its own
            step()
        assert model.generate("a", max_length=8) == before
        assert all(np.isfinite(value).all() for value in model.get_weights())
    model.fit(TEXTS, verbose=0)


def test_a_share_to_validate_with_is_rounded_as_in_keras(tokenizer):
    model = make(tokenizer)
    assert [split_at(5, share) for share in (0.2, 0.25, 0.05, 0.5)] == [4, 3, 4, 2]
    history = model.fit(TEXTS, validation_split=0.05, verbose=0).history
    assert model.data_report.documents == 4 and "val_loss" in history
    for share in (0.9, 1.5, -0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="leaves none to train on"):
            model.fit(TEXTS, validation_split=share, verbose=0)
    history = model.fit(TEXTS, validation_split=0.4, validation_data=["no"], verbose=0).history
    assert model.data_report.documents == 5
    awaited = model.evaluate(["no"], verbose=0, return_dict=True)["loss"]
    close(history["val_loss"][0], awaited, 1e-5)


@pytest.mark.parametrize(
    ("data", "options", "told"),
    [
        (zip(TEXTS, TEXTS), {}, "A tuple of 2 came"),
        (zip(TEXTS, TEXTS), {"steps_per_epoch": 1}, "A tuple of 2 came"),
        ("talks.jsonl", {}, "looks like the name of a file"),
        ([], {}, "nothing to train on"),
        (None, {}, "nothing to train on"),
        (TEXTS, {"batch_size": 0}, "batch_size must be 1 or more"),
        (TEXTS, {"batch_size": -1}, "batch_size must be 1 or more"),
        (TEXTS, {"class_weight": {0: 1.0}}, "class_weight is for labels that are classes"),
    ],
)
def test_what_is_no_data_is_told(tokenizer, data, options, told):
    with pytest.raises(ValueError, match=told):
        make(tokenizer).fit(data, verbose=0, **options)


def test_lists_of_messages_are_conversations(tokenizer):
    model = make(tokenizer)
    talk = [{"role": "user", "content": "a?"}, {"role": "model", "content": "b"}]
    for data in (talk, [talk, talk], iter([talk, talk])):
        model.fit(data, verbose=0)
    assert model.data_report.documents == 2


def test_a_stream_is_drawn_no_further_than_it_is_trained_on(tokenizer):
    drawn = []
    texts = (drawn.append(text) or text for text in TEXTS * 20)
    make(tokenizer).fit(texts, batch_size=2, steps_per_epoch=3, verbose=0)
    assert len(drawn) < 30


# --- users' own steps ---


class SeesLogits(GemmaCausalLM):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        assert y_pred.shape[-1] == self.backbone.config.vocabulary_size
        return super().compute_loss(x, y, y_pred, sample_weight, training)


def test_a_subclass_that_computes_its_loss_is_given_logits(tokenizer):
    awaited = make(tokenizer).evaluate(TEXTS, verbose=0, return_dict=True)
    model = make(tokenizer, SeesLogits)
    found = model.evaluate(TEXTS, verbose=0, return_dict=True)
    close(list(found.values()), list(awaited.values()), 1e-5)
    model.fit(TEXTS, verbose=0)


def test_metrics_are_told_by_a_step_of_ones_own_as_keras_tells_them(tokenizer):
    model = make(tokenizer)
    awaited = model.evaluate(TEXTS, verbose=0, return_dict=True)
    x, y, weights = model.preprocessor(TEXTS)
    logits = model(x)
    model.reset_metrics()
    for metric in model.metrics:  # as in Keras's guide to custom training steps
        if metric.name == "loss":
            metric.update_state(model.compute_loss(x, y, logits, weights))
        else:
            metric.update_state(y, logits, sample_weight=weights)
    found = model.get_metrics_result()
    assert set(found) == set(awaited)
    close([float(found[name]) for name in awaited], list(awaited.values()), 1e-5)


def test_logits_are_made_only_where_somebody_asks_for_them(tokenizer):
    def makes_logits(**options):
        return not make(tokenizer, **options)._trains_on_hidden_states

    assert not makes_logits() and not makes_logits(weighted_metrics=[])
    assert not makes_logits(weighted_metrics=None)
    assert makes_logits(metrics=["sparse_categorical_accuracy"])
    assert makes_logits(loss="sparse_categorical_crossentropy")


def test_compiled_again_a_model_forgets_its_metrics(tokenizer):
    model = make(tokenizer, weighted_metrics=[keras.metrics.SparseCategoricalAccuracy()])
    assert "sparse_categorical_accuracy" in model.fit(TEXTS, verbose=0).history
    model.compile(sampler="top_k")
    assert list(model.fit(TEXTS, verbose=0).history) == ["accuracy", "loss", "perplexity"]


def test_metrics_count_in_float32_whatever_keras_takes_by_default():
    keras.config.set_floatx("bfloat16")
    try:
        metrics = TokenMetrics()
        for _ in range(600):
            metrics.count(
                TokenMeans(
                    ops.array(2.0, "float32"), ops.array(0.5, "float32"), ops.array(1.0, "float32")
                ),
                0.0,
            )
        accuracy, perplexity = (metric.result() for metric in metrics.all)
    finally:
        keras.config.set_floatx("float32")
    close([float(accuracy), float(perplexity["loss"])], [0.5, 2.0], 1e-6)


def test_a_saved_model_is_compiled_as_its_backend_compiles(tokenizer, tmp_path):
    model = make(tokenizer)
    usual = model.jit_compile
    model.compile(jit_compile=not usual)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").jit_compile == usual
