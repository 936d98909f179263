"""Texts by beam and contrastive search: streamed, in a chat, recorded, all beams; and refused."""

import numpy as np
import pytest
from keras import ops

from keras_gemma import Chat, ContinuousBatcher, GemmaCausalLM
from keras_gemma.constraints import Choices
from keras_gemma.samplers import BeamSampler, ContrastiveSampler

PROMPTS = ["Once upon a time", "In the beginning"]
NEW = 6


@pytest.fixture(scope="module")
def model():
    return GemmaCausalLM.from_preset("gemma_instruct_tiny_en")


def asked(model, sampler, prompts=PROMPTS, **keywords):
    model.compile(sampler=sampler, run_eagerly=True)
    return model.generate(prompts, max_new_tokens=NEW, **keywords)


@pytest.mark.parametrize("name", ["beam", "contrastive"])
def test_by_name(model, name):
    sampler = {"beam": BeamSampler(5), "contrastive": ContrastiveSampler(5, 0.6)}[name]
    assert asked(model, name) == asked(model, sampler)


@pytest.mark.once
@pytest.mark.parametrize("sampler", [BeamSampler(3), ContrastiveSampler(4)])
def test_pieces_make_up_the_text(model, sampler):
    expected = asked(model, sampler, PROMPTS[0], strip_prompt=True)
    pieces = list(model.stream(PROMPTS[0], max_new_tokens=NEW))
    assert "".join(pieces) == expected and len(pieces) > 1
    cut = asked(model, sampler, PROMPTS[0], strip_prompt=True, stop=pieces[-1])
    assert cut == expected[: expected.index(pieces[-1])]


@pytest.mark.once
@pytest.mark.parametrize("sampler", [BeamSampler(3), ContrastiveSampler(4)])
def test_a_conversation(model, sampler):
    model.compile(sampler=sampler, run_eagerly=True)
    chat = Chat(model)
    first = chat.send("Spell the word cat.", max_new_tokens=NEW)
    second = chat.send("And dog?", max_new_tokens=NEW)
    assert [turn["content"] for turn in chat.messages[1::2]] == [first, second]


@pytest.mark.parametrize("sampler", [BeamSampler(3), ContrastiveSampler(4)])
def test_log_probs_are_those_of_the_text_that_was_chosen(model, sampler):
    """As `score` has them, whatever rows were left on the way."""
    for prompt, made in zip(PROMPTS, asked(model, sampler, log_probs=2)):
        found = [one.log_prob for one in made.log_probs]
        start, new = model._encode(prompt), [one.token_id for one in made.log_probs]
        ids = np.array([start + new], "int32")
        losses = model.score(ids[:, :-1], scoring_mode="loss", target_ids=ids[:, 1:])
        expected = -ops.convert_to_numpy(losses)[0, len(start) - 1 :]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert {len(one.top) for one in made.log_probs} == {2}


def test_all_beams_as_texts(model):
    sampler = BeamSampler(3, return_all_beams=True)
    best = asked(model, BeamSampler(3), log_probs=0)
    sums = [sum(one.log_prob for one in made.log_probs) for made in best]
    for (text, _), total, beams in zip(best, sums, asked(model, sampler)):
        assert len({beam.text for beam in beams}) == 3 and beams[0].text == text
        log_probs = [beam.log_prob for beam in beams]
        assert log_probs == sorted(log_probs, reverse=True)
        np.testing.assert_allclose(log_probs[0], total, atol=1e-4)
    with pytest.raises(ValueError, match="All beams come with one log-probability each"):
        model.generate(PROMPTS, max_new_tokens=NEW, log_probs=0)


@pytest.mark.parametrize("sampler", [BeamSampler(3), ContrastiveSampler(4)])
def test_what_it_cannot_do_is_refused(model, sampler):
    kind = type(sampler).__name__
    model.compile(sampler=sampler, run_eagerly=True)
    with pytest.raises(ValueError, match=f"A constraint follows one text .* {kind} compares"):
        model.generate(PROMPTS, max_new_tokens=NEW, constraint=Choices([" yes", " no"]))
    with pytest.raises(ValueError, match=f"{kind} can't share a program"):
        ContinuousBatcher(model)
    model.compile(sampler=sampler, run_eagerly=True, draft="prompt_lookup")
    with pytest.raises(ValueError, match=f"A draft guesses .* {kind} compares texts"):
        model.generate(PROMPTS, max_new_tokens=NEW)
