"""Texts in one batch, plainly and under asyncio, are those of `generate`."""

import asyncio

import pytest

from keras_gemma import ContinuousBatcher, GemmaCausalLM
from keras_gemma.constraints import Choices

PROMPTS = [
    "Once upon a time",
    "In the beginning",
    "There was a fox",
    "The king",
    "A little girl had",
]


@pytest.fixture(scope="module")
def model():
    return GemmaCausalLM.from_preset("gemma_tiny_en")


@pytest.fixture(scope="module")
def expected(model):
    return [model.generate(p, max_new_tokens=12, strip_prompt=True) for p in PROMPTS]


@pytest.fixture(scope="module")
def batcher(model):
    return ContinuousBatcher(model, slots=2, max_length=64)


def test_answers_are_those_of_generate(batcher, expected):
    answers = [batcher.submit(prompt, max_new_tokens=12) for prompt in PROMPTS]
    batcher.run()
    assert [answer.text for answer in answers] == expected
    assert {answer.finish_reason for answer in answers} <= {"length", "stop"}


def test_pieces_make_up_the_text(batcher, expected):
    answer = batcher.submit(PROMPTS[0], max_new_tokens=12)
    other = batcher.submit(PROMPTS[1], max_new_tokens=12)
    pieces = list(answer)
    assert "".join(pieces) == expected[0] and len(pieces) > 1
    assert other.result() == expected[1]


def test_each_has_its_own_sampler_and_seed(model, batcher):
    texts = [
        batcher.submit(PROMPTS[0], max_new_tokens=8, seed=seed, temperature=1.0, top_k=20)
        for seed in (3, 4, 3)
    ]
    batcher.run()
    first, second, third = (answer.text for answer in texts)
    assert first == third != second
    model.compile(sampler="greedy")


def test_stop_strings_end_a_text(batcher, expected):
    stop = expected[0][4:8]
    answer = batcher.submit(PROMPTS[0], max_new_tokens=12, stop=stop)
    assert answer.result() == expected[0][: expected[0].index(stop)]
    assert answer.finish_reason == "stop" and not batcher.is_busy


def test_under_asyncio(batcher, expected):
    async def whole(prompt):
        return "".join([piece async for piece in batcher.submit(prompt, max_new_tokens=12)])

    async def everybody():
        later = batcher.submit(PROMPTS[4], max_new_tokens=12)
        return [*await asyncio.gather(*map(whole, PROMPTS[:4])), await later]

    assert asyncio.run(everybody()) == expected


def test_cancelling_under_asyncio(batcher, expected):
    async def cut():
        answer = batcher.submit(PROMPTS[0], max_new_tokens=40)
        said = ""
        async for piece in answer:
            said += piece
            answer.cancel()
        return answer, said

    answer, said = asyncio.run(cut())
    assert answer.finish_reason == "cancelled" and answer.text == said
    assert said and expected[0].startswith(said[: len(expected[0])]) and not batcher.is_busy


@pytest.mark.once
def test_those_beside_and_behind_a_constrained_text_are_free(batcher, expected):
    bound, *free = (
        batcher.submit(prompt, max_new_tokens=12, constraint=constraint)
        for prompt, constraint in zip(PROMPTS[:3], (Choices([" yes", " no"]), None, None))
    )
    batcher.run()
    assert bound.text in (" yes", " no") and bound.finish_reason == "stop"
    assert [answer.text for answer in free] == expected[1:3]


@pytest.mark.once
def test_a_constrained_text_that_is_cut_short_says_so(batcher):
    whole = " a long answer indeed"
    answer = batcher.submit(PROMPTS[0], max_new_tokens=2, constraint=Choices([whole]))
    assert answer.result() and whole.startswith(answer.text) and answer.finish_reason == "length"


def test_what_is_wrong_is_told(batcher, model):
    with pytest.raises(ValueError, match="does not fit this batch's length=64"):
        batcher.submit(PROMPTS[0], max_new_tokens=400)
    with pytest.raises(ValueError, match="temperature must be"):
        batcher.submit(PROMPTS[0], temperature=-1)
    with pytest.raises(TypeError, match="warmth"):
        batcher.submit(PROMPTS[0], warmth=1)
    assert not batcher.is_busy
