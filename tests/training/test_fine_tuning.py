"""Recipes for people's own data: what they may say, and that it is done."""

import json

import numpy as np
import pytest
from training.conftest import SIZES

from keras_gemma import (
    Gemma3Backbone,
    Gemma3CausalLM,
    Gemma3CausalLMPreprocessor,
    Gemma3Tokenizer,
    GemmaCausalLM,
    device_memory,
)
from keras_gemma.out_of_memory import OutOfMemoryError
from keras_gemma.training import fine_tuning
from keras_gemma.training.recipe import run
from keras_gemma.training.recipe_file import recipe_of
from keras_gemma.training.replay import replay

LINES = {
    "text": [{"text": "the cat saw a boat"}] * 8,
    "pair": [{"prompt": "the cat", "response": "saw"}] * 8,
    "conversation": [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    ]
    * 8,
}


@pytest.fixture
def recipe(new_model, tmp_path):
    new_model().save_to_preset(tmp_path / "base")
    return {
        "seed": 5,
        "start": str(tmp_path / "base"),
        "data": str(tmp_path / "data.jsonl"),
        "row_length": 16,
        "batch_size": 4,
        "optimizer": {"learning_rate": 0.01},
    }


@pytest.mark.once
@pytest.mark.parametrize("kind", LINES)
def test_texts_pairs_and_conversations_are_trained_on(recipe, tmp_path, kind):
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LINES[kind]))
    told = []
    measured = run({**recipe, "epochs": 3}, tmp_path / "run", on_progress=told.append)
    assert measured["tokens_seen"] == 3 * 2 * 4 * 16
    before, after = (
        GemmaCausalLM.from_preset(tmp_path / place).get_weights()
        for place in ("base", "run/preset")
    )
    assert not all(np.array_equal(a, b) for a, b in zip(before, after))


@pytest.mark.once
def test_tokens_packing_accumulation_and_held_out_rows_are_settings(recipe, tmp_path):
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LINES["text"]))
    told = []
    more = {"tokens": 5 * 4 * 16, "pack": True, "accumulate": 2, "validation": 0.25}
    measured = run({**recipe, **more}, tmp_path / "run", on_progress=told.append)
    assert measured["tokens_seen"] == more["tokens"]
    assert [record["step"] for record in told if "val_loss" in record] == [5]


@pytest.mark.once
def test_wrong_rows_are_left_out_and_counted_where_the_recipe_says_so(recipe, tmp_path):
    rows = "".join(json.dumps(row) + "\n" for row in LINES["text"])
    (tmp_path / "data.jsonl").write_text(rows + "{\n")
    with pytest.raises(ValueError, match="data.jsonl:9: not JSON.*--skip-bad"):
        fine_tuning.prepare({**recipe, "start": "no preset, which is not asked for"})
    with pytest.warns(UserWarning, match="1 of 9 documents were wrong and were skipped"):
        measured = run({**recipe, "skip_bad": True}, tmp_path / "run", on_progress=lambda now: None)
    assert measured["rows_skipped"] == 1 and measured["tokens_seen"] == 2 * 4 * 16


@pytest.mark.once
def test_a_recipe_whose_step_has_no_room_is_refused(recipe, monkeypatch, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps(LINES["text"][0]) + "\n")
    large = {**recipe, "batch_size": 10**6}
    with pytest.raises(OutOfMemoryError, match="A step of 1,000,000 x .*It fits with batch_size="):
        run(large, tmp_path / "run", on_progress=lambda now: None)
    fine_tuning.prepare({**large, "check_memory": False})
    monkeypatch.setattr(device_memory, "is_hosts", lambda: False)  # a GPU says so itself
    fine_tuning.prepare(large)


@pytest.mark.once
def test_a_recipe_says_what_becomes_of_long_rows(recipe, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps(LINES["text"][0]) + "\n")
    for given, found in ((None, None), ("drop", "drop")):
        model, _, _ = fine_tuning.prepare({**recipe, "too_long": given})
        assert model.preprocessor.too_long == found
    with pytest.raises(ValueError, match="too_long must be one of cut, split, drop, error"):
        fine_tuning.prepare({**recipe, "too_long": "shorten"})


@pytest.mark.once
def test_what_a_recipe_may_not_say_is_told(recipe):
    with pytest.raises(ValueError, match="The recipe has rank, and may have name, .*lora"):
        fine_tuning.prepare({**recipe, "rank": 8})
    with pytest.raises(ValueError, match="The recipe lacks data"):
        fine_tuning.prepare({key: value for key, value in recipe.items() if key != "data"})
    with pytest.raises(ValueError, match="no optimizer 'Adamm'. Those there are: .*AdamW"):
        fine_tuning._optimizer({"optimizer": {"name": "Adamm"}, "accumulate": 1})


@pytest.mark.once
@pytest.mark.parametrize(
    "field, told",
    [
        ({"pack": "False"}, "pack of the recipe must be true or false, as JSON .*, not 'False'"),
        ({"batch_size": 0}, "batch_size of the recipe must be a whole number above 0, not 0"),
        ({"batch_size": "two"}, "batch_size .* whole number above 0, not 'two'"),
        ({"tokens": 10}, "tokens=10 of the recipe are less than one batch, .*: 64"),
        ({"optimizer": {}}, "optimizer of the recipe must be an object with a learning_rate"),
        ({"seed": None}, "seed of the recipe must be a whole number from 0 on, not None"),
    ],
)
def test_a_field_that_is_none_of_what_it_may_be_is_told(recipe, tmp_path, field, told):
    with pytest.raises(ValueError, match=told):
        run({**recipe, **field}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gemma_3_is_one_and_weights_are_as_they_are_stored(recipe, tmp_path, tokenizer, dtype):
    sizes = {**SIZES, "vocabulary_size": tokenizer.vocabulary_size()}
    backbone = Gemma3Backbone(image_size=None, **sizes, dtype=dtype)
    preprocessor = Gemma3CausalLMPreprocessor(Gemma3Tokenizer(tokenizer.proto), 24)
    Gemma3CausalLM(preprocessor, backbone).save_to_preset(tmp_path / "3")
    (tmp_path / "data.jsonl").write_text(json.dumps(LINES["text"][0]) + "\n")
    model, _, _ = fine_tuning.prepare({**recipe, "start": str(tmp_path / "3")})
    assert type(model) is Gemma3CausalLM and model.backbone.dtype_policy.name == dtype


@pytest.mark.once
@pytest.mark.parametrize("lora", [None, {}])
def test_without_an_adapter_the_whole_model_is_saved(recipe, tmp_path, lora):
    (tmp_path / "data.jsonl").write_text(json.dumps(LINES["text"][0]) + "\n")
    run({**recipe, "lora": lora}, tmp_path / "run", on_progress=lambda record: None)
    assert (tmp_path / "run" / "preset").exists()


@pytest.mark.once
def test_another_run_can_t_begin_while_the_model_is_loaded(recipe, tmp_path, monkeypatch):
    (tmp_path / "data.jsonl").write_text(json.dumps(LINES["text"][0]) + "\n")
    prepare = fine_tuning.prepare

    def slow(given):
        with pytest.raises(ValueError, match="Another run works in "):
            run({**recipe, "seed": 7}, tmp_path / "run")
        return prepare(given)

    monkeypatch.setattr(fine_tuning, "prepare", slow)
    run(recipe, tmp_path / "run", on_progress=lambda record: None)
    assert recipe_of(tmp_path / "run")["seed"] == recipe["seed"]


@pytest.mark.once
def test_a_run_is_resumed_from_another_folder(recipe, tmp_path, monkeypatch):
    (tmp_path / "data.jsonl").write_text(json.dumps(LINES["text"][0]) + "\n")
    monkeypatch.chdir(tmp_path)
    quiet = {"on_progress": lambda record: None}
    run({**recipe, "data": "data.jsonl", "start": "base"}, tmp_path / "run", **quiet)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run(recipe_of(tmp_path / "run"), tmp_path / "run", resume=True, **quiet)
    assert replay(tmp_path / "run", **quiet) == []


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_with_lora_the_adapter_alone_is_trained_and_saved(recipe, tmp_path, quantize):
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LINES["text"]))
    more = {"lora": {"rank": 2, "alpha": 4, "targets": ["query"]}, "quantize": quantize}
    run({**recipe, **more}, tmp_path / "run", on_progress=lambda record: None)
    assert not (tmp_path / "run" / "preset").exists()
    base = GemmaCausalLM.from_preset(tmp_path / "base")
    base.backbone.enable_lora(rank=2, alpha=4, target_layer_names=["query"])
    before = [np.array(w) for w in base.get_weights()]
    base.backbone.load_lora_weights(
        tmp_path / "run" / "adapter.lora.h5",
        strict=quantize is None,  # else it is known that the base was rounded
    )
    changed = [not np.array_equal(a, b) for a, b in zip(before, base.get_weights())]
    assert sum(changed) == 2  # both matrices of the one layer's queries
