"""`keras-gemma bench`: its arithmetic on a model that takes known times, then on a real one."""

import itertools
import json

import keras
import pytest

from keras_gemma.cli import bench


class Clockwork:
    """A model and a clock: a token of a prompt takes 10 ms, each one after the first 500 ms."""

    def __init__(self, compiling=7.0, vocabulary=50):
        self.now, self.compiling, self.prompts = 0.0, compiling, []
        self.backbone = type("", (), {"config": type("", (), {"vocabulary_size": vocabulary})})

    def generate(self, inputs, max_length, stop_token_ids):
        assert stop_token_ids is None  # a text that ends early would be timed as a long one
        rows, prompt = inputs["token_ids"].shape
        self.prompts.append(inputs["token_ids"])
        self.now += self.compiling + rows * prompt * 0.01 + (max_length - prompt - 1) * 0.5
        self.compiling = 0.0

    def clock(self):
        return self.now


@pytest.mark.once
def test_seconds_and_rates_are_those_of_the_model():
    model = Clockwork()
    found = bench.measured(model, rows=2, prompt=30, count=9, clock=model.clock)
    assert found == pytest.approx(
        {
            "first_call_seconds": 7.0 + 0.6 + 8 * 0.5,
            "first_token_seconds": 0.6,
            "prompt_tokens_per_second": 100.0,
            "decode_tokens_per_second": 4.0,
        }
    )


@pytest.mark.once
def test_no_prompt_comes_twice_and_a_slow_model_is_asked_less():
    model = Clockwork()
    bench.measured(model, rows=1, prompt=8, count=5, clock=model.clock)
    assert len({prompt.tobytes() for prompt in model.prompts}) == len(model.prompts) == 8
    slow = Clockwork(compiling=2 * bench.ENOUGH)
    bench.measured(slow, rows=1, prompt=8, count=5, clock=slow.clock)
    assert len(slow.prompts) == 4
    assert all((prompt < 50).all() and (prompt >= 0).all() for prompt in slow.prompts)


@pytest.mark.once
def test_a_model_is_measured(run):
    options = ("--rows", 2, "--prompt-tokens", 20, "--new-tokens", 6)
    result = run("bench", *options, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["preset"], facts["backend"]) == ("gemma_tiny_en", keras.config.backend())
    assert (facts["rows"], facts["prompt_tokens"], facts["new_tokens"]) == (2, 20, 6)
    assert facts["parameters"] == 1_410_176
    assert 0 < facts["first_token_seconds"] < facts["first_call_seconds"]
    rate = facts["prompt_tokens_per_second"] * facts["first_token_seconds"]
    assert rate == pytest.approx(2 * 20)
    assert facts["peak_memory_bytes"] > 4 * facts["parameters"]


@pytest.mark.once
def test_people_get_a_table(run):
    result = run("bench", "--prompt-tokens", 4, "--new-tokens", 3, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert head == (
        f"gemma_tiny_en on {keras.config.backend()}, bfloat16: a prompt of 4 tokens, 3 new ones"
    )
    for name in ("load", "first token", "decode", "peak memory", "kernels"):
        assert any(name in row for row in rows)


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [("--rows", 0), ("--prompt-tokens", 0), ("--new-tokens", 1), ("--dtype", "int3")],
)
def test_numbers_that_measure_nothing_are_refused(run, options):
    assert run("bench", *options).exit_code == 2


@pytest.mark.once
def test_an_unknown_preset_is_told(run):
    result = run("bench", "gema_2b_en")
    assert (result.exit_code, "Did you mean" in result.stderr) == (1, True)


@pytest.mark.once
def test_two_times_that_do_not_differ_tell_no_rate(capsys):
    found = bench.measured(Clockwork(), 1, 4, 3, clock=itertools.count().__next__)
    assert found["decode_tokens_per_second"] is None
    bench.show(
        {
            "preset": "p",
            "backend": "jax",
            "dtype": "float32",
            "rows": 1,
            "prompt_tokens": 4,
            "new_tokens": 3,
            "kernels": "none",
            "load_seconds": 1.5,
            "peak_memory_bytes": None,
            **found,
        }
    )
    told = capsys.readouterr().out
    assert "too short to tell" in told and "unknown" in told and "1.50 s" in told
