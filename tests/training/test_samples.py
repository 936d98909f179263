"""Texts in the middle of fit: told, and the numbers stay what they are."""

import json

import pytest
from training.runs import fit, numbers

from keras_gemma.training import Samples


def test_samples_come_when_asked_and_change_nothing(model, texts, tmp_path):
    fit(model, texts, tmp_path / "without")
    without, told = numbers(model), []
    samples = Samples(
        ["the cat", "a"],
        every=3,
        max_new_tokens=4,
        show=lambda *pair: told.append(pair),
        folder=tmp_path,
    )
    fit(model.again(), texts, tmp_path / "with", samples)
    assert numbers(model) == without
    assert [prompt for prompt, _ in told] == ["the cat", "a"] * 2  # after steps 3 and 6
    assert all(text.startswith(prompt) for prompt, text in told)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]


@pytest.mark.once
def test_by_default_they_are_printed_after_each_epoch(model, texts, capsys):
    model.fit(texts, epochs=2, verbose=0, callbacks=[Samples(["the hen"], max_new_tokens=2)])
    assert capsys.readouterr().out.count("the hen") == 2


def test_a_text_is_one_prompt():
    assert Samples("The fox").prompts == ["The fox"]


@pytest.mark.parametrize("every", [0, "step", 1.5])
def test_an_interval_that_is_none_is_told(every):
    with pytest.raises(ValueError, match="steps or 'epoch'"):
        Samples(["a"], every=every)
