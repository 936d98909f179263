"""A receipt says what a run depended on, and a replay that the same comes out again."""

import json
from pathlib import Path

import pytest
from training.runs import fit

from keras_gemma.training import receipt
from keras_gemma.training.recipe import run
from keras_gemma.training.replay import replay


@pytest.fixture
def recipe(new_model, texts, tmp_path):
    new_model().save_to_preset(tmp_path / "base")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {
        "seed": 5,
        "start": str(tmp_path / "base"),
        "data": str(data),
        "row_length": 24,
        "batch_size": 4,
        "epochs": 2,
        "optimizer": {"name": "AdamW", "learning_rate": 0.01, "global_clipnorm": 1.0},
    }


def quiet(record):
    pass


def test_a_run_of_a_recipe_comes_out_the_same_and_a_changed_one_is_told(recipe, tmp_path):
    out = tmp_path / "run"
    run(recipe, out, on_progress=quiet)
    kept = receipt.read(out)
    assert kept["steps"] == 8 and kept["recipe"] == recipe and kept["data"]["batches"] == 4
    assert kept["weights_at_start"] != kept["weights_at_end"]
    assert kept["environment"]["backend"] in kept["environment"]
    assert replay(out, on_progress=quiet) == []

    lines = (out / "log.jsonl").read_text()
    record = json.loads(lines.splitlines()[0])
    (out / "log.jsonl").write_text(lines.replace(repr(record["loss"]), "3.25"))
    (out / "receipt.json").write_text(json.dumps({**kept, "weights_at_end": "another"}))
    found = replay(out, on_progress=quiet)
    assert found[0] == f"loss at step 8: 3.25 then, {record['loss']} now"
    assert found[1].startswith("weights at end: another then, ") and len(found) == 2


@pytest.mark.once
def test_data_that_were_changed_since_are_the_first_difference(recipe, tmp_path):
    run(recipe, tmp_path / "run", on_progress=quiet)
    with Path(recipe["data"]).open("a") as file:
        file.write('{"text": "one more boat"}\n')
    assert replay(tmp_path / "run", on_progress=quiet)[0].startswith("data: {'kind': 'TextBatches'")


def test_a_run_of_a_script_has_a_receipt_and_needs_its_script(model, texts, tmp_path):
    fit(model, texts, tmp_path)
    assert receipt.read(tmp_path)["recipe"] is None
    with pytest.raises(ValueError, match=r"has no recipe.json: .* when the script runs again"):
        replay(tmp_path)


def test_a_run_that_has_not_ended_is_told(recipe, tmp_path):
    run(recipe, tmp_path / "run", on_progress=quiet)
    kept = receipt.read(tmp_path / "run")
    del kept["weights_at_end"]
    (tmp_path / "run" / "receipt.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="has not ended. Resume it first"):
        replay(tmp_path / "run")
