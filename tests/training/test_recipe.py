"""A recipe is run, saved, and ends the same when it was stopped in between."""

import json

import numpy as np
import pytest

from keras_gemma import GemmaCausalLM
from keras_gemma.training import recipe as recipes

RECIPE = {
    "seed": 3,
    "corpus": [
        {"source": "stories", "share": 0.6, "seed": 1},
        {"source": "skills", "share": 0.4},
    ],
    "loss": "all",
    "tokenizer": {"vocabulary_size": 512, "characters": 60_000},
    "model": {
        "vocabulary_size": 512,
        "num_layers": 1,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
        "hidden_dim": 32,
        "intermediate_dim": 128,
        "head_dim": 16,
    },
    "row_length": 65,
    "batch_size": 4,
    "tokens": 60 * 256,
    "optimizer": {"learning_rate": 0.01, "warmup_steps": 5, "global_clipnorm": 1.0},
}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_GEMMA_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def weights(folder):
    return GemmaCausalLM.from_preset(folder / "preset").get_weights()


def test_sixty_steps_lower_the_loss_and_give_a_preset(tmp_path):
    reports = []
    measured = recipes.run(RECIPE, tmp_path / "run", on_progress=reports.append)
    assert [report["step"] for report in reports] == [20, 40, 60]
    assert reports[-1]["loss"] < reports[0]["loss"] - 0.3
    assert measured["tokens_seen"] == 60 * 256
    model = GemmaCausalLM.from_preset(tmp_path / "run" / "preset")
    assert model.generate("Once", max_length=12).startswith("Once")
    assert json.loads((tmp_path / "run" / "recipe.json").read_text()) == RECIPE


@pytest.mark.once
def test_a_stopped_run_ends_with_the_numbers_of_an_unbroken_one(tmp_path):
    class Stopped(Exception):
        pass

    def stop(report):
        if report["step"] == 40:
            raise Stopped

    short = {**RECIPE, "tokens": 60 * 256}
    recipes.run(short, tmp_path / "whole", on_progress=lambda report: None)
    with pytest.raises(Stopped):
        recipes.run(short, tmp_path / "cut", on_progress=stop, checkpoint_every=1)
    with pytest.raises(ValueError, match="holds a run already"):
        recipes.run(short, tmp_path / "cut")
    recipes.run(short, tmp_path / "cut", resume=True, on_progress=lambda report: None)
    for a, b in zip(weights(tmp_path / "whole"), weights(tmp_path / "cut")):
        np.testing.assert_array_equal(a, b)


@pytest.mark.once
def test_a_recipe_may_start_from_a_preset(tmp_path):
    recipes.run({**RECIPE, "tokens": 10 * 256}, tmp_path / "base", on_progress=lambda report: None)
    tuned = {key: RECIPE[key] for key in ("seed", "row_length", "batch_size", "optimizer")}
    tuned |= {"start": str(tmp_path / "base" / "preset"), "loss": "model", "tokens": 20 * 256}
    tuned |= {"corpus": [{"source": "skills", "share": 1.0, "seed": 4}]}
    recipes.run(tuned, tmp_path / "tuned", on_progress=lambda report: None)
    assert any(
        (a != b).any() for a, b in zip(weights(tmp_path / "base"), weights(tmp_path / "tuned"))
    )


@pytest.mark.once
def test_the_model_s_turns_alone_count_when_asked(tmp_path):
    from keras_gemma.data import corpus

    tokenizer = corpus.tokenizer(RECIPE)
    settings = {**RECIPE, "loss": "model", "corpus": [{"source": "skills", "share": 1.0}]}
    rows = corpus.rows(settings, tokenizer)
    spoken = np.asarray(rows.token_ids)[np.asarray(rows.weights) > 0]
    text = tokenizer.detokenize(spoken)
    assert "<start_of_turn>" not in text and "capital of" not in text
    assert tokenizer.end_of_turn_token_id in spoken


@pytest.mark.once
def test_a_run_shorter_than_its_warm_up_is_told(tmp_path):
    with pytest.raises(ValueError, match="warmup_steps=5 takes the whole run of 2 steps"):
        recipes.run({**RECIPE, "tokens": 2 * 256}, tmp_path / "run")
