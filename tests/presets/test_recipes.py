"""The recipes that come with the package, for people's own data."""

import json

import numpy as np
import pytest

from keras_gemma import GemmaCausalLM, data, optimizers
from keras_gemma.presets import registry
from keras_gemma.training import fine_tuning

NAMES = [name for name in registry.recipes() if name.startswith("sft_")]


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_whole_and_names_what_there_is(name):
    recipe = registry.recipe(name)
    settings = fine_tuning.checked(recipe)
    assert recipe["name"] == name
    assert registry.card(settings["start"])["kind"] == "instruct"
    assert isinstance(fine_tuning._optimizer(settings), optimizers.AdamW)
    assert set(recipe["needs"]) == {"memory", "of", "estimated_gb"}
    assert recipe["yields"].startswith("adapter" if settings["lora"] else "preset")
    assert bool(settings["quantize"]) == ("qlora" in name)
    assert bool(settings["lora"]) == ("lora" in name)


@pytest.mark.once
def test_there_is_one_of_each_way_for_each_machine():
    ways = {tuple(name.split("_")[1:]) for name in NAMES}
    machines = "laptop", "colab", "24gb", "80gb"
    assert ways >= {(way, on) for way in ("full", "lora", "qlora") for on in machines}
    assert {("lora", "tiny"), ("full", "tiny")} <= ways


@pytest.mark.once
def test_a_file_beside_a_recipe_is_its_data_wherever_one_stands(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "there" / "r.json").write_text('{"data": "a.jsonl"}')
    monkeypatch.chdir(tmp_path)
    assert registry.recipe("there/r.json")["data"] == str(tmp_path / "there" / "a.jsonl")
    assert registry.recipe("sft_lora_colab")["data"] == "conversations.jsonl"
    assert len(data.read(registry.recipe("sft_lora_tiny")["data"])) == 2000


@pytest.mark.once
def test_bundled_conversations_are_those_of_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(registry.root().parent / "benchmarks"))
    new_skill = pytest.importorskip("new_skill")
    rows = (registry.root() / "recipes" / "reversed_words.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == new_skill.examples(1500, old=0.25, seed=1)


def test_a_tiny_recipe_runs_from_the_command_line(tmp_path):
    from click.testing import CliRunner

    from keras_gemma.cli.main import verbs

    changes = ["--set", "row_length=32", "--set", "batch_size=2", "--set", "validation=0"]
    few = tmp_path / "few.jsonl"
    rows = (registry.root() / "recipes" / "reversed_words.jsonl").read_text().splitlines()
    few.write_text("\n".join(rows[:6]) + "\n")
    out = tmp_path / "run"
    asked = ["train", "sft_lora_tiny", "--data", few, *changes, "--out", out, "--json"]
    result = CliRunner().invoke(verbs, list(map(str, asked)), catch_exceptions=False)
    assert result.exit_code == 0
    epochs = registry.recipe("sft_lora_tiny")["epochs"]
    assert json.loads(result.stdout)["tokens_seen"] == epochs * 3 * 2 * 32
    model = GemmaCausalLM.from_preset("gemma_instruct_tiny_en")
    text = ["Say these words backwards: mouse milk."]
    before = model.score(text)[0]
    model.backbone.load_lora_weights(out / "adapter.lora.h5")
    assert not np.array_equal(before, model.score(text)[0])
