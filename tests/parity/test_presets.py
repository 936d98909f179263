"""Preset folders go both ways between KerasHub and here."""

import cases
import numpy as np
import pytest
from conftest import close, once_but

from keras_gemma import (
    Gemma3CausalLMPreprocessor,
    Gemma3Tokenizer,
    GemmaCausalLM,
    GemmaCausalLMPreprocessor,
    GemmaTokenizer,
)
from keras_gemma.presets import BadPresetError, PresetError

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")

NAMES = ["grouped", "Gemma 2", "Gemma 3"]


def ours(name, proto):
    gemma3 = name in cases.GEMMA3
    tokenizer = (Gemma3Tokenizer if gemma3 else GemmaTokenizer)(proto)
    model = cases.make(name, vocabulary_size=tokenizer.vocabulary_size())
    kind = Gemma3CausalLMPreprocessor if gemma3 else GemmaCausalLMPreprocessor
    return type(model)(backbone=model.backbone, preprocessor=kind(tokenizer, 20))


def theirs(model):
    return getattr(keras_hub.models, type(model).__name__)


@pytest.mark.parametrize("name", once_but(NAMES, "Gemma 3"))
def test_keras_hub_reads_what_we_write(name, tokenizer, tmp_path):
    model, batch = ours(name, tokenizer.proto), cases.inputs()
    model.save_to_preset(tmp_path / "mine")
    reference = theirs(model).from_preset(str(tmp_path / "mine"))
    close(reference(batch), model(batch), where=batch["padding_mask"][:, :, None])
    text = "The quick brown fox"
    expected = model.preprocessor.generate_preprocess([text])["token_ids"]
    assert np.array_equal(reference.preprocessor.generate_preprocess([text])["token_ids"], expected)
    assert reference.preprocessor.sequence_length == 20


@pytest.mark.parametrize("name", once_but(NAMES, "Gemma 3"))
def test_we_read_what_keras_hub_writes(name, tokenizer, tmp_path):
    model, batch = ours(name, tokenizer.proto), cases.inputs()
    model.save_to_preset(tmp_path / "mine")
    theirs(model).from_preset(str(tmp_path / "mine")).save_to_preset(str(tmp_path / "theirs"))
    again = type(model).from_preset(tmp_path / "theirs")
    for old, new in zip(model.variables, again.variables):
        assert old.path == new.path and (np.asarray(old) == np.asarray(new)).all()
    assert (cases.logits(again, batch) == cases.logits(model, batch)).all()
    assert again.preprocessor.tokenizer.proto == tokenizer.proto


def test_there_and_back_is_exact_and_dtype_is_ours_to_choose(tokenizer, tmp_path):
    model = ours("Gemma 2", tokenizer.proto)
    model.save_to_preset(tmp_path / "x")
    again = GemmaCausalLM.from_preset(tmp_path / "x")
    assert again.backbone.config == model.backbone.config
    for old, new in zip(model.variables, again.variables):
        assert (np.asarray(old) == np.asarray(new)).all()
    narrow = GemmaCausalLM.from_preset(tmp_path / "x", dtype="bfloat16")
    assert {v.dtype for v in narrow.variables} == {"bfloat16"}
    narrow.save_to_preset(tmp_path / "narrow")
    wide = GemmaCausalLM.from_preset(tmp_path / "narrow", dtype="float32")
    for old, new in zip(narrow.variables, wide.variables):
        assert (np.asarray(old).astype("float32") == np.asarray(new)).all()


def test_without_weights_the_architecture_comes(tokenizer, tmp_path):
    model = ours("grouped", tokenizer.proto)
    model.save_to_preset(tmp_path / "x")
    blank = GemmaCausalLM.from_preset(tmp_path / "x", load_weights=False)
    assert blank.backbone.config == model.backbone.config
    assert (np.asarray(blank.variables[0]) != np.asarray(model.variables[0])).any()
    assert GemmaCausalLM.from_preset(tmp_path / "x", preprocessor=None).preprocessor is None


def test_a_preset_of_another_kind_is_told(tokenizer, tmp_path):
    ours("Gemma 3", tokenizer.proto).save_to_preset(tmp_path / "x")
    with pytest.raises(PresetError, match="Gemma3Backbone"):
        GemmaCausalLM.from_preset(tmp_path / "x")


@pytest.mark.parametrize(
    "file", ["config.json", "model.weights.h5", "assets/tokenizer/vocabulary.spm"]
)
@pytest.mark.once
@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_a_missing_or_truncated_file_is_named(file, harm, tokenizer, tmp_path):
    ours("grouped", tokenizer.proto).save_to_preset(tmp_path / "x")
    path = tmp_path / "x" / file
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((PresetError, ValueError, FileNotFoundError), match=path.name):
        GemmaCausalLM.from_preset(tmp_path / "x")


def test_a_wrong_shape_names_the_weight(tokenizer, tmp_path):
    ours("grouped", tokenizer.proto).save_to_preset(tmp_path / "x")
    other = cases.make("multi-query", vocabulary_size=tokenizer.vocabulary_size())
    other.backbone.save_weights(tmp_path / "x" / "model.weights.h5")
    with pytest.raises(BadPresetError, match="key_dense"):
        GemmaCausalLM.from_preset(tmp_path / "x")


def test_unknown_presets_get_the_nearest_names():
    with pytest.raises(PresetError, match="gemma_2b_en"):
        GemmaCausalLM.from_preset("gema_2b_en")
