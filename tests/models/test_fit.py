"""`fit` takes what people have, and trains on what counts."""

import warnings

import keras
import numpy as np
import pytest
from conftest import SIZES, close, once_but
from keras import ops

from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor
from keras_gemma.optimizers import AdamW

TEXTS = ["The cat sat.", "A dog ran away.", "Birds sing in the morning.", "Rain.", "It is late."]
PAIRS = {"prompts": ["One?", "Two?", "Three?"], "responses": ["1", "2", "3 it is"]}
TALK = [
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "model", "content": "Hi there"}]},
    {"messages": [{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Bye"}]},
]


def make(tokenizer, seed=0, dtype="float32", **options):
    keras.utils.set_random_seed(seed)
    backbone = GemmaBackbone(
        **{**SIZES, "vocabulary_size": tokenizer.vocabulary_size(), "num_layers": 1}, dtype=dtype
    )
    return GemmaCausalLM(backbone, GemmaCausalLMPreprocessor(tokenizer, 24, **options))


class Strings(keras.utils.PyDataset):
    """A user's own data set of strings."""

    num_batches = 2

    def __getitem__(self, index):
        return np.array(TEXTS[2 * index : 2 * index + 2])


def data_set():
    tensorflow = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    return tensorflow.data.Dataset.from_tensor_slices(TEXTS).batch(2)


KINDS = {
    "list": lambda: (TEXTS, 2),
    "array": lambda: (np.array(TEXTS), 2),
    "pairs": lambda: (PAIRS, 1),
    "conversations": lambda: (TALK, 2),
    "PyDataset": lambda: (Strings(), None),
    "tf.data": lambda: (data_set(), None),
}


@pytest.mark.parametrize("kind", once_but(KINDS, "conversations", "tf.data"))
def test_fit_learns_from(kind, tokenizer):
    if kind == "tf.data":
        pytest.importorskip("tensorflow_text", reason="tensorflow-text is not installed")
    model = make(tokenizer)
    model.compile(optimizer=AdamW(1e-2))
    x, batch_size = KINDS[kind]()
    history = model.fit(x, batch_size=batch_size, epochs=6, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 0.3
    assert history["perplexity"][-1] < history["perplexity"][0]
    assert 0 <= history["accuracy"][-1] <= 1


def test_a_batch_cut_otherwise_gives_the_same_perplexity(tokenizer):
    model = make(tokenizer)
    found = [
        model.evaluate(TEXTS, batch_size=size, verbose=0, return_dict=True)["perplexity"]
        for size in (1, 2, 5)
    ]
    close(np.array(found[1:]), np.array([found[0]] * 2), 1e-5)


def test_packing_changes_rows_but_not_the_loss(tokenizer):
    alone, packed = make(tokenizer), make(tokenizer, pack=True)
    packed.set_weights(alone.get_weights())
    a, b = (
        model.evaluate(TEXTS, batch_size=8, verbose=0, return_dict=True)
        for model in (alone, packed)
    )
    close(a["perplexity"], b["perplexity"], 1e-5)


@pytest.mark.once
def test_validation_data_may_be_text(tokenizer):
    model = make(tokenizer)
    history = model.fit(TEXTS, batch_size=2, validation_data=(TEXTS[:2],), verbose=0).history
    assert history["val_loss"][0] > 0 and history["val_perplexity"][0] > 1


def test_what_keras_hub_notebooks_compile(tokenizer):
    model = make(tokenizer)
    optimizer = keras.optimizers.AdamW(learning_rate=5e-3, weight_decay=0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias", "scale"])
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=optimizer,
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy()],
        sampler="greedy",
    )
    history = model.fit(TEXTS, epochs=4, batch_size=1, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert "sparse_categorical_accuracy" in history


def test_generate_in_a_callback_then_train_on(tokenizer):
    texts = []

    class Sample(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            texts.append(self.model.generate("The", max_length=8))

        def on_train_batch_end(self, batch, logs=None):
            texts.append(self.model.generate("A", max_length=6))

    model = make(tokenizer)
    model.compile(optimizer=AdamW(1e-2))
    before = model.get_weights()
    model.fit(TEXTS, batch_size=5, epochs=2, verbose=0, callbacks=[Sample()])
    assert len(texts) == 4 and texts[1].startswith("The")
    assert any((old != new).any() for old, new in zip(before, model.get_weights()))
    model.compile(sampler="top_k")
    assert model.generate("The", max_length=8).startswith("The")


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_what_is_generated_after_a_step_is_of_the_new_weights(dtype, tokenizer):
    model, other = make(tokenizer, dtype=dtype), make(tokenizer, dtype=dtype)
    model.compile(optimizer=AdamW(5e-2))
    texts = []
    for _ in range(4):
        model.train_on_batch(TEXTS)
        other.set_weights(model.get_weights())
        other.compile()
        texts.append([m.generate("The", max_length=8) for m in (model, other)])
    assert all(mine == awaited for mine, awaited in texts)
    assert len({mine for mine, _ in texts}) > 1


@pytest.mark.once
def test_a_step_of_ones_own_reports_what_compute_metrics_finds(tokenizer):
    model = make(tokenizer)
    x, y, weights = model.preprocessor(TEXTS)
    awaited = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    model.reset_metrics()
    found = model.compute_metrics(x, y, model(x), weights)
    for name, value in awaited.items():
        assert float(ops.stop_gradient(found[name])) == pytest.approx(value, rel=1e-5)


def test_a_generator_validates_at_each_epoch(tokenizer):
    model = make(tokenizer)
    batches = (model.preprocessor([text]) for text in TEXTS[:4])
    keywords = {"validation_data": batches, "validation_steps": 2, "epochs": 3, "verbose": 0}
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    found = model.fit(TEXTS, batch_size=5, **keywords).history["val_loss"]
    awaited = model.evaluate(TEXTS[:2], verbose=0)[0]
    assert len(found) == 3 and found[0] == pytest.approx(awaited, rel=1e-5)


@pytest.mark.once
def test_columns_of_pandas_are_texts(tokenizer):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pandas.DataFrame({**PAIRS, "text": PAIRS["prompts"]}, index=[2, 0, 1])
    model = make(tokenizer)
    for given, awaited in (
        (table["text"], PAIRS["prompts"]),
        (table["text"].values, PAIRS["prompts"]),
        (table[["prompts", "responses"]], PAIRS),
    ):
        losses = [model.evaluate(x, verbose=0)[0] for x in (given, awaited)]
        assert losses[0] == pytest.approx(losses[1])


@pytest.mark.once
def test_callbacks_of_keras_know_which_way_the_metrics_get_better(tokenizer, tmp_path):
    stop = keras.callbacks.EarlyStopping("val_accuracy", baseline=1.5, restore_best_weights=True)
    keep = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5", "val_perplexity", save_best_only=True, save_weights_only=True
    )
    plateau = keras.callbacks.ReduceLROnPlateau("accuracy", mode="min")
    callbacks = [stop, keep, plateau]
    model = make(tokenizer)
    history = model.fit(
        TEXTS, epochs=3, validation_data=TEXTS[:2], verbose=0, callbacks=callbacks
    ).history
    assert len(history["loss"]) == 2  # no accuracy is above 1.5
    assert (tmp_path / "best.weights.h5").exists()
    ways = [callback.monitor_op(1.0, 2.0) for callback in callbacks]
    assert [bool(way) for way in ways] == [False, True, True]


@pytest.mark.once
def test_a_new_sequence_length_is_used_by_the_next_fit(tokenizer):
    model = make(tokenizer)
    model.preprocessor.sequence_length = 12
    assert model.preprocessor(TEXTS)[1].shape == (5, 12)
    with pytest.warns(UserWarning, match="1 of 5 documents were longer than a row and were cut"):
        model.fit(TEXTS, batch_size=5, verbose=0)


def test_bfloat16_weights_move_and_keras_adam_is_warned_of(tokenizer):
    model = make(tokenizer, dtype="bfloat16")
    before = [np.asarray(ops.convert_to_numpy(ops.cast(v, "float32"))) for v in model.variables]
    model.compile(optimizer=AdamW(1e-2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(TEXTS, batch_size=5, verbose=0)
    after = [np.asarray(ops.convert_to_numpy(ops.cast(v, "float32"))) for v in model.variables]
    assert all((a != b).any() for a, b in zip(before, after))
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    with pytest.warns(UserWarning, match="keras_gemma.optimizers.AdamW"):
        model.fit(TEXTS, batch_size=5, verbose=0)


def test_summary_shows_the_parameters_and_the_preprocessor(tokenizer, capsys):
    model = make(tokenizer)
    model.summary()
    shown = capsys.readouterr().out
    assert "Preprocessor" in shown and "gemma_tokenizer" in shown
    assert f"{model.count_params():,}" in shown
