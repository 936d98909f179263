"""A classifier is its backbone, pooled, and one matrix; it takes texts with labels and is kept whole."""

import json

import keras
import numpy as np
import pytest
from conftest import SIZES, close, loud, once_but
from keras import ops

from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaTextClassifier
from keras_gemma import GemmaTextClassifierPreprocessor as Preprocessor
from keras_gemma.optimizers import AdamW
from keras_gemma.presets import BadPresetError
from keras_gemma.training import Checkpoint

TEXTS = ["The cat sat.", "A dog ran away.", "Birds sing.", "Rain."]
LABELS = [0, 1, 2, 0]


def backbone(tokenizer=None, dtype="float32", **more):
    sizes = {**SIZES, "num_layers": 1, **more}
    if tokenizer:
        sizes["vocabulary_size"] = tokenizer.vocabulary_size()
    return GemmaBackbone(**sizes, dtype=dtype)


def make(tokenizer, dtype="float32", seed=0, **options):
    keras.utils.set_random_seed(seed)
    preprocessor = Preprocessor(tokenizer, 16)
    model = GemmaTextClassifier(backbone(tokenizer, dtype), 3, preprocessor, **options)
    model.compile(optimizer=AdamW(1e-2))
    return model


class Strings(keras.utils.PyDataset):
    """A user's own data set of strings with labels."""

    num_batches = 2

    def __getitem__(self, index):
        return TEXTS[2 * index : 2 * index + 2], np.array(LABELS[2 * index : 2 * index + 2])


def data_set():
    tensorflow = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    return tensorflow.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(2)


KINDS = {
    "texts and labels": lambda: {"x": TEXTS, "y": LABELS, "batch_size": 2},
    "a tuple of both": lambda: {"x": (TEXTS, np.array(LABELS)), "batch_size": 2},
    "texts in two parts": lambda: {"x": (TEXTS, TEXTS), "y": LABELS, "batch_size": 2},
    "PyDataset": lambda: {"x": Strings()},
    "tf.data": lambda: {"x": data_set()},
}


@pytest.mark.parametrize("kind", once_but(KINDS, "texts and labels", "tf.data"))
def test_fit_learns_from(kind, tokenizer):
    model = make(tokenizer)
    history = model.fit(**KINDS[kind](), epochs=10, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["accuracy"][-1] > 0.7


def test_a_run_that_was_stopped_ends_with_the_very_numbers(tokenizer, tmp_path):
    texts = [text * (1 + n % 3) for n, text in enumerate(TEXTS * 3)]

    def fit(model, folder, *others, **options):
        checkpoint = Checkpoint(tmp_path / folder, every=1, **options)
        callbacks = [checkpoint, *others]
        model.fit(texts, LABELS * 3, 4, epochs=3, verbose=0, callbacks=callbacks)
        return [np.array(weight) for weight in model.get_weights()]

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = self.model.fit_run.step == 5

    whole = fit(make(tokenizer), "whole")
    fit(make(tokenizer), "a", Stop())
    again = make(tokenizer, seed=7)
    for got, wanted in zip(fit(again, "a", resume=True), whole, strict=True):
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises(ValueError, match="of another model: pooling_mode last there, mean here"):
        fit(make(tokenizer, pooling_mode="mean"), "a", resume=True)
    texts[0] = "Another text."
    with pytest.raises(ValueError, match="over other data: sha256"):
        fit(make(tokenizer), "a", resume=True)


@pytest.mark.parametrize("pooling_mode", ["last", "mean"])
def test_logits_are_those_of_a_hand(pooling_mode):
    model = loud(GemmaTextClassifier(backbone(), 4, hidden_dim=5, pooling_mode=pooling_mode))
    ids = np.random.default_rng(0).integers(1, 90, (3, 6)).astype("int32")
    mask = np.array([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1], [1, 1, 2, 2, 2, 0]], "int32")
    batch = {"token_ids": ids, "padding_mask": mask}
    hidden = np.asarray(ops.convert_to_numpy(model.backbone(batch)), "float64")
    pooled = hidden[np.arange(3), [3, 5, 4]]
    if pooling_mode == "mean":
        pooled = np.array([row[real > 0].mean(axis=0) for row, real in zip(hidden, mask)])
    (a, b), (c, d) = (model.get_layer(name).get_weights() for name in ("pooled_dense", "logits"))
    close(model(batch), np.tanh(pooled @ a + b) @ c + d, 2e-5)


def test_outputs_do_not_depend_on_batch_mates_or_on_order(tokenizer):
    model = make(tokenizer)
    texts = [*TEXTS, " and ".join(TEXTS), "The"]
    alone = np.concatenate([model.predict(text, verbose=0) for text in texts])
    close(model.predict(texts, batch_size=3, verbose=0), alone, 1e-5)


def test_loss_and_accuracy_are_of_all_texts(tokenizer):
    model = make(tokenizer)
    logits = model.predict(TEXTS, verbose=0).astype("float64")
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found = model.evaluate(TEXTS, LABELS, batch_size=2, verbose=0, return_dict=True)
    assert abs(found["loss"] + logs[np.arange(4), LABELS].mean()) < 1e-5
    assert abs(found["accuracy"] - (logits.argmax(axis=1) == LABELS).mean()) < 1e-6


@pytest.mark.once
def test_a_batch_may_be_texts(tokenizer):
    model = make(tokenizer)
    awaited = model.evaluate(TEXTS, np.array(LABELS), verbose=0)
    assert model.test_on_batch(TEXTS, np.array(LABELS)) == pytest.approx(awaited, rel=1e-5)
    close(model.predict_on_batch(TEXTS), model.predict(TEXTS, verbose=0), 1e-5)
    first = [model.train_on_batch(TEXTS, np.array(LABELS))[0] for _ in range(4)]
    assert first[-1] < first[0]


def test_softmax_gives_probabilities_and_the_loss_knows(tokenizer):
    model, logits = make(tokenizer, activation="softmax"), make(tokenizer)
    logits.set_weights(model.get_weights())
    close(model.predict(TEXTS, verbose=0).sum(axis=1), np.ones(4), 1e-6)
    a, b = (m.evaluate(TEXTS, LABELS, verbose=0, return_dict=True)["loss"] for m in (model, logits))
    assert abs(a - b) < 1e-5


@pytest.mark.once
def test_weights_classes_and_validation_are_as_in_keras(tokenizer):
    model = make(tokenizer)
    plain = model.evaluate(TEXTS[2:], LABELS[2:], verbose=0)[0]
    model.compile(optimizer=AdamW(0.0))
    history = model.fit(TEXTS, LABELS, validation_split=0.5, verbose=0).history
    assert abs(history["val_loss"][0] - plain) < 1e-6
    doubled = model.fit(TEXTS[:2], LABELS[:2], class_weight={0: 2.0, 1: 2.0}, verbose=0).history
    weighted = model.fit(TEXTS[:2], LABELS[:2], sample_weight=[2.0, 2.0], verbose=0).history
    assert abs(doubled["loss"][0] - 2 * history["loss"][0]) < 1e-5
    assert abs(weighted["loss"][0] - 2 * history["loss"][0]) < 1e-5


def test_fit_takes_texts_of_all_lengths(tokenizer):
    """Of batches in which sizes differ; Keras on TensorFlow looks at the first two."""
    model = make(tokenizer)
    model.preprocessor.sequence_length = 64
    texts = ["the " * (1 + n % 45) for n in range(24)]
    history = model.fit(texts, [0] * 24, batch_size=4, epochs=2, verbose=0).history
    assert history["accuracy"][-1] == 1


def test_integers_pass_as_they_are(tokenizer):
    model = make(tokenizer)
    batch = model.preprocessor(TEXTS)
    model.preprocessor = None
    model.fit(batch, np.array(LABELS), batch_size=2, validation_split=0.5, verbose=0)
    assert model.predict(batch, batch_size=2, verbose=0).shape == (4, 3)
    with pytest.raises(ValueError, match="this model has none"):
        model.predict(TEXTS)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1, 3, 0], "0 to 2; label 2 is 3"),
        ([0, -1, 0, 0], "label 1 is -1"),
        (list("abcd"), "not such as .'a'."),
        ([0, 1], "4 texts and 2 labels"),
    ],
)
def test_labels_that_can_not_be_are_told(labels, told, tokenizer):
    with pytest.raises(ValueError, match=told):
        make(tokenizer).fit(TEXTS, labels, verbose=0)


@pytest.mark.once
def test_a_preset_folder_keeps_all_of_it(tokenizer, tmp_path):
    model = make(tokenizer, hidden_dim=7, dropout=0.25, pooling_mode="mean", activation="softmax")
    model.fit(TEXTS, LABELS, verbose=0)
    expected = model.predict(TEXTS, verbose=0)
    model.save_to_preset(tmp_path / "kept")
    again = GemmaTextClassifier.from_preset(tmp_path / "kept")
    assert again.get_config()["dropout"] == 0.25 and again.preprocessor.sequence_length == 16
    assert (again.predict(TEXTS, verbose=0) == expected).all()
    assert json.loads((tmp_path / "kept/task.json").read_text())["registered_name"] == (
        "keras_gemma>GemmaTextClassifier"
    )
    # The backbone with another head, with a new head of as many classes, and as a language model.
    assert GemmaTextClassifier.from_preset(tmp_path / "kept", num_classes=5).num_classes == 5
    new = GemmaTextClassifier.from_preset(tmp_path / "kept", num_classes=3)
    assert (new.predict(TEXTS, verbose=0) != expected).any()
    lm = GemmaCausalLM.from_preset(tmp_path / "kept")
    close(lm.backbone.token_embedding.embeddings, model.backbone.token_embedding.embeddings, 0)


def test_a_keras_file_keeps_all_of_it_and_trains_on(tokenizer, tmp_path):
    model = make(tokenizer, pooling_mode="mean")
    model.fit(TEXTS, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (again.predict(TEXTS, verbose=0) == model.predict(TEXTS, verbose=0)).all()
    losses = [
        m.fit(TEXTS, LABELS, shuffle=False, verbose=0).history["loss"] for m in (model, again)
    ]
    close(losses[0], losses[1], 1e-6)


def test_presets_that_can_not_be_loaded_say_why(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="holds no classifier. Give num_classes"):
        GemmaTextClassifier.from_preset("gemma_tiny_en")
    make(tokenizer).save_to_preset(tmp_path)
    record = json.loads((tmp_path / "task.json").read_text())
    record["config"]["num_classes"] = 4
    (tmp_path / "task.json").write_text(json.dumps(record))
    with pytest.raises(BadPresetError, match="logits/kernel has shape .24, 3., awaited .24, 4."):
        GemmaTextClassifier.from_preset(tmp_path)
    record["config"]["run"] = "code"
    (tmp_path / "task.json").write_text(json.dumps(record))
    with pytest.raises(BadPresetError, match="no option 'run'"):
        GemmaTextClassifier.from_preset(tmp_path)


def test_a_head_that_is_damaged_is_not_loaded(tokenizer, tmp_path):
    model = make(tokenizer)
    model.get_layer("logits").bias.assign([0.0, np.nan, 0.0])
    model.save_to_preset(tmp_path)
    with pytest.raises(BadPresetError, match="logits/bias is not a finite number"):
        GemmaTextClassifier.from_preset(tmp_path)
    (tmp_path / "task.weights.h5").write_bytes(b"cut")
    with pytest.raises(BadPresetError, match=r"task.weights.h5"):
        GemmaTextClassifier.from_preset(tmp_path)
    (tmp_path / "task.weights.h5").unlink()
    with pytest.raises(BadPresetError, match=r"no task.weights.h5"):
        GemmaTextClassifier.from_preset(tmp_path)


@pytest.mark.once
def test_in_bfloat16_the_head_computes_in_float32(tokenizer, tmp_path):
    model = make(tokenizer, "bfloat16")
    before = model.get_layer("logits").get_weights()[0]
    model.fit(TEXTS, LABELS, epochs=3, verbose=0)
    assert model.predict(TEXTS, verbose=0).dtype == "float32"
    assert {v.dtype for v in model.backbone.weights} == {"bfloat16"}
    assert (model.get_layer("logits").get_weights()[0] != before).any()
    model.save_to_preset(tmp_path)
    again = GemmaTextClassifier.from_preset(tmp_path, dtype="bfloat16")
    assert (again.predict(TEXTS, verbose=0) == model.predict(TEXTS, verbose=0)).all()


@pytest.mark.once
def test_a_quantized_classifier_judges_alike_and_is_kept(tokenizer, tmp_path):
    model = make(tokenizer)
    model.fit(TEXTS, LABELS, epochs=5, verbose=0)
    exact = model.predict(TEXTS, verbose=0)
    model.quantize("int8")
    rounded = model.predict(TEXTS, verbose=0)
    close(rounded, exact, 0.05)
    model.save_to_preset(tmp_path)
    again = GemmaTextClassifier.from_preset(tmp_path)
    close(again.predict(TEXTS, verbose=0), rounded, 1e-5)
    model.backbone.trainable = False
    model.compile()
    model.fit(TEXTS, LABELS, verbose=0)  # the head can still be trained


def test_lora_trains_its_factors_and_the_head_only(tokenizer, tmp_path):
    model = make(tokenizer)
    model.backbone.enable_lora(rank=2)
    kept = {v.path: ops.convert_to_numpy(v) for v in model.non_trainable_variables}
    names = {v.path.split("/")[-1] for v in model.trainable_variables}
    assert {"kernel", "bias"} <= names and all("lora" in n for n in names - {"kernel", "bias"})
    history = model.fit(TEXTS, LABELS, epochs=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    for variable in model.non_trainable_variables:
        if "seed" not in variable.path:
            assert (ops.convert_to_numpy(variable) == kept[variable.path]).all()
    model.save_to_preset(tmp_path)  # merged, as people without adapters need it
    again = GemmaTextClassifier.from_preset(tmp_path)
    close(again.predict(TEXTS, verbose=0), model.predict(TEXTS, verbose=0), 1e-5)
