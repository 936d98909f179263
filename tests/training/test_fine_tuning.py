"""Recipes for people's own data: what they may say, and that it is done."""

import json

import numpy as np
import pytest

from keras_gemma import GemmaCausalLM
from keras_gemma.training import fine_tuning
from keras_gemma.training.recipe import run

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
def test_what_a_recipe_may_not_say_is_told(recipe):
    with pytest.raises(ValueError, match="The recipe has rank, and may have name, .*lora"):
        fine_tuning.prepare({**recipe, "rank": 8})
    with pytest.raises(ValueError, match="The recipe lacks data"):
        fine_tuning.prepare({key: value for key, value in recipe.items() if key != "data"})
    with pytest.raises(ValueError, match="no optimizer 'Adamm'. Those there are: .*AdamW"):
        fine_tuning._optimizer({"optimizer": {"name": "Adamm"}, "accumulate": 1})


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
