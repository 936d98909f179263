import json

import pytest
from hub_examples import hub_fixture

from keras_gemma import samplers

__all__ = ["hub_fixture"]
pytestmark = pytest.mark.once


def test_the_text_follows_the_prompt(run, model):
    result = run("generate", "Zero ")
    assert (result.exit_code, result.stdout) == (0, "Zero One two.\n")
    assert run("generate", "Zero ", "--strip-prompt").stdout == "One two.\n"


def test_a_dash_reads_the_prompt_from_stdin(run, model):
    run("generate", "-", input="from a pipe\n")
    assert model.prompts == ["from a pipe\n"]


def test_json_holds_all_of_it(run, model):
    result = json.loads(run("generate", "Zero ", "--json", "--seed", 3).stdout)
    assert (result["prompt"], result["text"], result["seed"]) == ("Zero ", "One two.", 3)


def test_options_reach_the_model(run, model):
    run("generate", "x", "--max-new-tokens", 5, "--stop", "a", "--stop", "b", "--seed", 7)
    assert model.keywords == {"max_new_tokens": 5, "stop": ["a", "b"], "seed": 7}


@pytest.mark.parametrize(
    "options, code",
    [
        ([], "GreedySampler()"),
        (["--temperature", 0.7], "RandomSampler(temperature=0.7)"),
        (["--top-k", 9], "TopKSampler(k=9)"),
        (["--top-p", 0.9, "--top-k", 9], "TopPSampler(p=0.9, k=9)"),
        (["--sampler", "top_k"], "TopKSampler()"),
        (["--sampler", "top_p", "--temperature", 2.0], "TopPSampler(temperature=2.0)"),
        (["--min-p", 0.1], "MinPSampler(p=0.1)"),
        (["--typical-p", 0.9], "TypicalSampler(p=0.9)"),
        (["--sampler", "typical"], "TypicalSampler()"),
        (["--top-k", 9, "--min-p", 0.1], "Sampler(top_k=9, min_p=0.1)"),
        (["--repetition-penalty", 1.2], "GreedySampler(repetition_penalty=1.2)"),
        (
            ["--temperature", 0.7, "--presence-penalty", 0.5, "--frequency-penalty", -0.5],
            "RandomSampler(temperature=0.7, presence_penalty=0.5, frequency_penalty=-0.5)",
        ),
        (
            ["--sampler", "top_k", "--repetition-penalty", 1.2],
            "TopKSampler(repetition_penalty=1.2)",
        ),
    ],
)
def test_a_number_is_enough_to_choose_a_sampler(run, model, options, code):
    run("generate", "x", *options)
    assert model.sampler.code() == f"keras_gemma.samplers.{code}"
    built = getattr(samplers, model.sampler.class_name)(**model.sampler.arguments)
    assert isinstance(built, samplers.Sampler)


@pytest.mark.parametrize(
    "options",
    [
        ["--sampler", "greedy", "--top-k", 3],
        ["--sampler", "random", "--top-p", 0.5],
        ["--sampler", "best"],
        ["--top-p", 0],
        ["--temperature", -1],
        ["--temperature", "nan"],
        ["--sampler", "greedy", "--temperature", 0.5],
        ["--sampler", "top_k", "--min-p", 0.5],
        ["--min-p", 1.5],
        ["--typical-p", 0],
        ["--repetition-penalty", 0],
        ["--presence-penalty", "inf"],
        ["--frequency-penalty", "nan"],
        ["--max-new-tokens", -1],
        ["--backend", "pytorch"],
    ],
)
def test_options_that_make_no_sense_are_told_before_anything_starts(run, model, options):
    result = run("generate", "x", *options)
    assert result.exit_code == 2
    assert model.prompts == []


def test_an_interrupt_ends_with_130_after_what_was_said(run, model):
    model.pieces = ["One ", KeyboardInterrupt()]
    result = run("generate", "Zero ")
    assert (result.exit_code, result.stdout) == (130, "Zero One ")


def test_the_code_shown_does_the_same(run, model, capsys, monkeypatch):
    import keras_gemma

    options = ["Zero ", "--max-new-tokens", 5, "--stop", "x", "--top-k", 2]
    code = run("generate", *options, "--show-code").stdout
    assert model.prompts == []
    monkeypatch.setattr(keras_gemma, "models", _Models(model), raising=False)
    monkeypatch.setattr(keras_gemma, "samplers", _Samplers(), raising=False)
    exec(compile(code, "shown", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out == run("generate", *options).stdout
    assert model.keywords == {"max_new_tokens": 5, "stop": ["x"]}


class _Models:
    def __init__(self, model):
        self.GemmaCausalLM = self
        self.from_preset = lambda preset: model


class _Samplers:
    def __getattr__(self, name):
        return lambda **arguments: (name, arguments)


def test_an_unknown_preset_is_told_before_a_backend_starts(run, hub):
    result = run("generate", "x", "--preset", "gema_2b_en")
    assert result.exit_code == 1
    assert "Did you mean 'gemma_2b_en'" in result.stderr
    assert run("generate", "x", "--preset", "gemma_2b_en").exit_code == 3
