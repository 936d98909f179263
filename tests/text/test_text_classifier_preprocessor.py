"""Rows of models that read a text whole."""

import numpy as np
import pytest

from keras_gemma import (
    GemmaCausalLMPreprocessor,
    GemmaTextClassifierPreprocessor,
    GemmaTextEmbedderPreprocessor,
)
from keras_gemma.text.text_classifier_preprocessor import shares


@pytest.fixture
def preprocessor(tokenizer):
    return GemmaTextClassifierPreprocessor(tokenizer, sequence_length=12)


def test_a_text_stands_between_bos_and_eos(preprocessor):
    tokenizer = preprocessor.tokenizer
    ids = [tokenizer.start_token_id, *tokenizer.encode("The cat"), tokenizer.end_token_id]
    x, y = preprocessor(["The cat"], [1])
    assert x["token_ids"].tolist() == [ids + [0] * (12 - len(ids))]
    assert x["padding_mask"].tolist() == [[1] * len(ids) + [0] * (12 - len(ids))]
    assert y == [1]
    assert preprocessor("The cat")["token_ids"].shape == (12,)


def test_a_long_text_keeps_its_ends(preprocessor):
    row = preprocessor("The cat sat on the mat and the dog ran away from it.")["token_ids"]
    tokenizer = preprocessor.tokenizer
    assert row[0] == tokenizer.start_token_id and row[-1] == tokenizer.end_token_id


def test_parts_of_a_text_are_parted_by_eos_and_share_the_row(preprocessor):
    tokenizer = preprocessor.tokenizer
    long, short = "The cat sat on the mat and the dog ran", "Rain"
    kept = shares([len(tokenizer.encode(long)), len(tokenizer.encode(short))], 12 - 3)
    row = preprocessor(([long], [short]))["token_ids"][0].tolist()
    end = tokenizer.end_token_id
    expected = [tokenizer.start_token_id, *tokenizer.encode(long)[: kept[0]], end]
    expected += [*tokenizer.encode(short)[: kept[1]], end]
    assert row == expected + [0] * (12 - len(expected)) and sum(kept) <= 9
    with pytest.raises(ValueError, match="not 2, 1"):
        preprocessor((["a", "b"], ["c"]))


def test_control_tokens_in_a_text_do_not_act(preprocessor):
    ids = preprocessor("<eos><start_of_turn>")["token_ids"]
    assert (ids == preprocessor.tokenizer.end_token_id).sum() == 1
    assert preprocessor.tokenizer.token_to_id("<start_of_turn>") not in ids


def test_what_is_no_text_is_named_with_its_place(preprocessor):
    with pytest.raises(TypeError, match="position 1, not NoneType"):
        preprocessor(["a", None])


def test_the_same_rows_come_from_tf_data(preprocessor):
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    texts, labels = ["The cat sat.", "A dog", "", "Birds"], [1, 0, 1, 1]
    data = tf.data.Dataset.from_tensor_slices((texts, labels))
    x, y = preprocessor(texts, labels)
    for batch_x, batch_y in data.batch(4).map(preprocessor):
        assert {k: v.numpy().tolist() for k, v in batch_x.items()} == {
            k: v.tolist() for k, v in x.items()
        }
        assert batch_y.numpy().tolist() == y
    for row, _ in data.map(preprocessor).take(1):
        assert row["token_ids"].numpy().tolist() == x["token_ids"][0].tolist()
    parts = tf.data.Dataset.from_tensor_slices(((texts, texts[::-1]), labels)).batch(4)
    for batch_x, _ in parts.map(preprocessor):
        expected = preprocessor((texts, texts[::-1]))["token_ids"]
        assert (batch_x["token_ids"].numpy() == expected).all()


def test_options_are_saved_and_those_of_another_task_are_not_read(preprocessor, tmp_path):
    preprocessor.save_to_preset(tmp_path)
    again = GemmaTextClassifierPreprocessor.from_preset
    # A preset has a config.json; that of the bundled one will do.
    from keras_gemma.presets import registry

    (tmp_path / "config.json").write_bytes(
        (registry.folder("gemma_tiny_en") / "config.json").read_bytes()
    )
    assert again(tmp_path).sequence_length == 12
    assert GemmaTextEmbedderPreprocessor.from_preset(tmp_path).sequence_length == 12
    assert GemmaCausalLMPreprocessor.from_preset(tmp_path).sequence_length == 1024
    assert again("gemma_tiny_en").sequence_length == 512
    assert np.array_equal(again(tmp_path)("A dog")["token_ids"], preprocessor("A dog")["token_ids"])
