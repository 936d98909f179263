import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from keras_gemma.cli import train
from keras_gemma.cli.common import Settings
from keras_gemma.presets.errors import NoSpaceError

pytestmark = pytest.mark.once

# By the number of tokens that a fake run is given.
ENDS = {0: KeyboardInterrupt(), -1: SystemExit(143), -2: NoSpaceError("needs 9 bytes, 5 are free")}
RECIPE = {"seed": 1, "tokens": 100, "optimizer": {"learning_rate": 0.1}}


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """A fake `training.recipe.run` and a recipe to give it."""
    calls = []

    def fake(recipe, out, resume, on_progress):
        calls.append((recipe, out, resume))
        for step in range(1, 4):
            on_progress({"step": step, "steps": 3, "loss": 2.0 / step, "tokens_per_second": 1e3})
        if recipe["tokens"] in ENDS:
            raise ENDS[recipe["tokens"]]
        skipped = {"rows_skipped": 1200} if recipe.get("skip_bad") else {}
        return {"tokens_seen": recipe["tokens"], **skipped}

    module = ModuleType("keras_gemma.training.recipe")
    module.run = fake
    monkeypatch.setitem(sys.modules, "keras_gemma.training.recipe", module)
    (tmp_path / "quick.json").write_text(json.dumps(RECIPE))
    return tmp_path / "quick.json", calls


def test_a_recipe_is_run_with_what_was_set(run, trainer, tmp_path):
    recipe, calls = trainer
    options = ["--set", "tokens=5", "--set", "optimizer.learning_rate=3e-3", "--seed", 9]
    result = run(
        "train", recipe, *options, "--out", tmp_path / "out", "--data", tmp_path / "a.jsonl"
    )
    assert result.exit_code == 0
    changed = {"seed": 9, "tokens": 5, "optimizer": {"learning_rate": 0.003}}
    changed["data"] = str(tmp_path / "a.jsonl")
    assert calls == [(changed, tmp_path / "out", False)]
    assert str(tmp_path / "out") in result.stdout


def test_wrong_rows_are_left_out_and_their_number_is_told(run, trainer, tmp_path):
    recipe, calls = trainer
    result = run("train", recipe, "--data", tmp_path / "a.jsonl", "--skip-bad")
    assert calls[0][0]["skip_bad"] is True
    assert "wrong and were left out: 1,200." in result.stdout
    assert "left out" not in run("train", recipe, "--data", tmp_path / "a.jsonl").stdout
    result = run("train", recipe, "--skip-bad")
    assert (result.exit_code, "this recipe has no data" in result.stderr) == (2, True)


def test_a_recipe_with_data_may_be_given_what_it_does_not_have_yet(run, trainer, tmp_path):
    recipe, calls = trainer
    data = ["--data", tmp_path / "a.jsonl"]
    run("train", recipe, *data, "--set", "too_long=drop", "--set", 'lora={"rank": 4}')
    assert calls[0][0]["too_long"] == "drop" and calls[0][0]["lora"] == {"rank": 4}
    result = run("train", recipe, *data, "--set", "too_lon=drop")
    assert (result.exit_code, "Did you mean 'too_long'" in result.stderr) == (2, True)
    assert run("train", recipe, "--set", "too_long=drop").exit_code == 2  # it has no data


def test_a_run_is_resumed_by_its_folder_as_it_began(run, trainer, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    assert run("train", "--resume", tmp_path).exit_code == 0
    assert trainer[1] == [(RECIPE, tmp_path, True)]
    options = ["--set", "tokens=5"], ["--data", "a.jsonl"], ["--out", "b"], ["--seed", 1]
    for more in (*options, ["--skip-bad"]):
        result = run("train", "--resume", tmp_path, *more)
        assert (result.exit_code, "resumed as it began" in result.stderr) == (2, True)
    result = run("train", "--resume", tmp_path / "nowhere")
    assert (result.exit_code, "has no recipe.json" in result.stderr) == (1, True)
    assert run("train").exit_code == run("train", "quick", "--resume", tmp_path).exit_code == 2


def test_a_value_that_is_no_json_is_a_text(run, trainer):
    run("train", trainer[0], "--set", "tokens=many")
    assert trainer[1][0][0]["tokens"] == "many"


def test_progress_is_told_in_lines_where_there_is_no_terminal(run, trainer):
    result = run("train", trainer[0])
    assert "step 1/3  loss 2.000" in result.stderr and "step 3/3" in result.stderr
    assert trainer[1][0][1] == Path("runs/quick")
    assert run("train", trainer[0], "--quiet").stderr == ""


def test_json_tells_what_was_measured(run, trainer):
    result = json.loads(run("train", trainer[0], "--json").stdout)
    assert result == {"out": "runs/quick", "tokens_seen": 100}


@pytest.mark.parametrize(
    "change, told",
    [
        ("tokns=3", "Did you mean 'tokens'"),
        ("optimizer.rate=3", "has no 'optimizer.rate'"),
        ("tokens.x=3", "has no 'tokens.x'"),
        ("tokens", "KEY=VALUE"),
        ("", "KEY=VALUE"),
    ],
)
def test_a_change_of_what_is_not_there_is_told(run, trainer, change, told):
    result = run("train", trainer[0], "--set", change)
    assert (result.exit_code, told in result.stderr) == (2, True)


def test_an_interrupt_says_how_to_go_on(run, trainer):
    result = run("train", trainer[0], "--set", "tokens=0")
    assert result.exit_code == 130
    assert "keras-gemma train --resume runs/quick" in result.stderr


def test_a_termination_and_a_full_disk_have_their_exit_codes(run, trainer):
    result = run("train", trainer[0], "--set", "tokens=-1")
    assert (result.exit_code, "--resume runs/quick" in result.stderr) == (143, True)
    result = run("train", trainer[0], "--set", "tokens=-2")
    assert (result.exit_code, "needs 9 bytes, 5 are free" in result.stderr) == (5, True)


def test_recipes_unknown_or_broken_have_their_exit_codes(run, tmp_path):
    assert run("train", "no_such_recipe").exit_code == 1
    (tmp_path / "bad.json").write_text("{")
    assert run("train", tmp_path / "bad.json").exit_code == 4


def test_the_code_shown_runs_the_same(run, trainer, monkeypatch):
    code = run("train", trainer[0], "--set", "tokens=7", "--show-code").stdout
    assert trainer[1] == []
    code = code.replace("resume=False", "resume=False, on_progress=print")
    exec(compile(code, "shown", "exec"), {})  # noqa: S102
    assert trainer[1][0][0]["tokens"] == 7


def test_in_a_terminal_there_is_a_bar(monkeypatch, capsys):
    settings = Settings(None, None, as_json=False, quiet=False, debug=False)
    monkeypatch.setattr(Settings, "is_terminal", True)
    with train.progress(settings) as report:
        for step in (1, 2):
            report({"step": step, "steps": 2, "loss": 1.25, "tokens_per_second": 1e3})
    assert "step 2/2" in (shown := capsys.readouterr().err) and "loss 1.250" in shown
