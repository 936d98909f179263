"""A vector a text: the same whoever stands beside it, and as others compute it."""

import keras
import numpy as np
import pytest
from conftest import SIZES, close, loud, once_but
from keras import ops

from keras_gemma import (
    Gemma3Backbone,
    Gemma3TextEmbedder,
    Gemma3TextEmbedderPreprocessor,
    Gemma3Tokenizer,
    GemmaBackbone,
    GemmaTextEmbedder,
    GemmaTextEmbedderPreprocessor,
)
from keras_gemma.models import InBatchNegatives
from keras_gemma.optimizers import AdamW

TEXTS = ["The cat sat.", "A dog ran away.", "Birds sing.", "Rain."]
PAIRS = {"queries": ["cat", "dog", "birds", "rain"], "documents": TEXTS}


def make(tokenizer, dtype="float32", **options):
    keras.utils.set_random_seed(0)
    sizes = {**SIZES, "num_layers": 1, "vocabulary_size": tokenizer.vocabulary_size()}
    preprocessor = GemmaTextEmbedderPreprocessor(tokenizer, 16)
    return GemmaTextEmbedder(GemmaBackbone(**sizes, dtype=dtype), preprocessor, **options)


@pytest.mark.parametrize("pooling_mode", ["last", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_have_length_1_and_do_not_depend_on_batch_mates(pooling_mode, dtype, tokenizer):
    model = make(tokenizer, dtype, pooling_mode=pooling_mode)
    together = model.encode_text(TEXTS)
    assert together.shape == (4, SIZES["hidden_dim"]) and together.dtype == "float32"
    close((together**2).sum(axis=1), np.ones(4), 1e-5)
    alone = np.concatenate([model.encode_text(text, verbose=0) for text in TEXTS])
    longer = model.encode_text([*TEXTS[::-1], "and so " * 9], verbose=0)
    close(longer[3::-1], together, 1e-5 if dtype == "float32" else 2e-2)
    close(together, alone, 1e-5 if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("pooling_mode", ["last", "mean"])
def test_vectors_do_not_depend_on_padding(pooling_mode):
    model = GemmaTextEmbedder(loud(GemmaBackbone(**SIZES)), pooling_mode=pooling_mode)
    ids = np.array([[5, 6, 7, 0, 0], [0, 0, 5, 6, 7], [0, 5, 6, 7, 0]], "int32")
    rows = model.predict({"token_ids": ids, "padding_mask": (ids > 0).astype("int32")}, verbose=0)
    close(rows, rows[[0, 0, 0]], 1e-5)


def test_similarities_are_cosines(tokenizer):
    model = make(tokenizer, normalize=False)
    a, b = model.encode_text(TEXTS[:2]), model.encode_text(TEXTS)
    unit = make(tokenizer)
    unit.set_weights(model.get_weights())
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    close(unit.similarity(*map(unit.encode_text, (TEXTS[:2], TEXTS))), a @ b.T / lengths, 1e-5)


def test_pairs_are_found_after_fit(tokenizer):
    model = make(tokenizer)
    model.compile(optimizer=AdamW(1e-2))
    history = model.fit(PAIRS, epochs=15, validation_data=PAIRS, verbose=0).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history["val_loss"][-1] < 1
    found = model.similarity(*map(model.encode_text, (PAIRS["queries"], PAIRS["documents"])))
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.once
def test_pairs_are_split_as_pairs(tokenizer):
    model = make(tokenizer)
    held_out = model.evaluate({name: texts[2:] for name, texts in PAIRS.items()}, verbose=0)
    model.compile(optimizer=AdamW(0.0))
    history = model.fit(PAIRS, validation_split=0.5, verbose=0).history
    assert abs(history["val_loss"][0] - held_out) < 1e-5 < held_out


def test_it_learns_from_any_loss_between_labels_and_vectors(tokenizer):
    model = make(tokenizer)
    model.compile(optimizer=AdamW(1e-2), loss=keras.losses.CosineSimilarity())
    targets = np.random.default_rng(0).normal(size=(4, SIZES["hidden_dim"]))
    history = model.fit(TEXTS, targets, epochs=10, verbose=0).history
    assert history["loss"][-1] < -0.7 < history["loss"][0]


def test_the_loss_is_that_of_a_hand():
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(6, 3)), np.array([0, 1, 0, 2, 1, 0])
    scores = vectors @ vectors.T / 0.5
    np.fill_diagonal(scores, -np.inf)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    expected = np.zeros(6)
    for row in range(6):
        same = [n for n in range(6) if n != row and labels[n] == labels[row]]
        expected[row] = -np.mean(logs[row, same]) if same else 0
    loss = InBatchNegatives(0.5, reduction=None)(labels, vectors.astype("float32"))
    close(loss, expected, 1e-5)


def test_columns_that_do_not_match_are_told(tokenizer):
    with pytest.raises(ValueError, match="4 queries and 3 documents"):
        make(tokenizer).fit({**PAIRS, "documents": TEXTS[:3]})


@pytest.mark.once
def test_folders_and_files_keep_all_of_it(tokenizer, tmp_path):
    model = make(tokenizer, pooling_mode="mean", normalize=False)
    model.fit(PAIRS, verbose=0)
    expected = model.encode_text(TEXTS)
    model.save_to_preset(tmp_path / "kept")
    again = GemmaTextEmbedder.from_preset(tmp_path / "kept")
    assert (again.pooling_mode, again.normalize) == ("mean", False)
    assert (again.encode_text(TEXTS) == expected).all()
    assert GemmaTextEmbedder.from_preset(tmp_path / "kept", normalize=True).normalize
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (again.encode_text(TEXTS) == expected).all()


def test_a_quantized_embedder_gives_like_vectors(tokenizer):
    model = make(tokenizer)
    exact = model.encode_text(TEXTS)
    model.quantize("int8")
    assert ((model.encode_text(TEXTS) * exact).sum(axis=1) > 0.99).all()


@pytest.mark.parametrize("pooling_mode", once_but(["last", "mean"], "last"))
def test_keras_hub_gives_the_same_vectors_from_our_folder(pooling_mode, tokenizer, tmp_path):
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    tokenizer = Gemma3Tokenizer(tokenizer.proto)
    sizes = {**SIZES, "vocabulary_size": tokenizer.vocabulary_size(), "image_size": None}
    model = Gemma3TextEmbedder(
        loud(Gemma3Backbone(**sizes)),
        Gemma3TextEmbedderPreprocessor(tokenizer, 16),
        pooling_mode=pooling_mode,
    )
    model.save_to_preset(tmp_path / "ours")
    theirs = keras_hub.models.Gemma3TextEmbedder.from_preset(str(tmp_path / "ours"))
    assert theirs.pooling_mode == pooling_mode
    expected = theirs.predict(TEXTS, verbose=0)
    close(model.encode_text(TEXTS, verbose=0), expected, 2e-5)
    theirs.save_to_preset(str(tmp_path / "theirs"))
    again = Gemma3TextEmbedder.from_preset(tmp_path / "theirs")
    assert again.pooling_mode == pooling_mode and again.preprocessor.sequence_length == 16
    close(again.encode_text(TEXTS, verbose=0), expected, 2e-5)


@pytest.mark.parametrize("pooling_mode", ["last", "mean"])
def test_vectors_equal_pooled_states_of_transformers(pooling_mode, tokenizer, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = make(tokenizer, pooling_mode=pooling_mode)
    loud(model.backbone)
    model.export_to_transformers(tmp_path)
    reference = transformers.AutoModel.from_pretrained(tmp_path)
    expected = []
    for row in model.preprocessor.rows(TEXTS):
        with torch.no_grad():
            states = reference(torch.tensor([row])).last_hidden_state[0].double().numpy()
        vector = states[-1] if pooling_mode == "last" else states.mean(axis=0)
        expected.append(vector / np.linalg.norm(vector))
    close(model.encode_text(TEXTS, verbose=0), np.array(expected), 2e-5)
    assert ops.convert_to_numpy(model(model.preprocessor(TEXTS))).shape == (4, SIZES["hidden_dim"])
