"""Rows of one batch may sample each in its own way, and get what they get alone."""

import keras
import numpy as np
import pytest
from conftest import once_but
from sampler_examples import context, different_logits, drawn

from keras_gemma.generation.compiled import compiler
from keras_gemma.samplers import (
    BeamSampler,
    GreedySampler,
    MinPSampler,
    RandomSampler,
    Sampler,
    SamplingContext,
    TopKSampler,
    TopPSampler,
    TypicalSampler,
    row_settings,
    settings_of,
)

SAMPLERS = [
    GreedySampler(),
    RandomSampler(),
    RandomSampler(temperature=0.3),
    RandomSampler(temperature=0),
    TopKSampler(3),
    TopKSampler(100_000),
    TopPSampler(0.6),
    TopPSampler(0.999, temperature=2.0),
    TopPSampler(0.9, k=7, repetition_penalty=1.5),
    MinPSampler(0.2),
    TypicalSampler(0.4),
    TypicalSampler(0.97, temperature=1.5),
    GreedySampler(presence_penalty=1.0, frequency_penalty=0.5),
    Sampler(temperature=0.8, top_k=50, top_p=0.95, min_p=0.01, typical_p=0.9),
    Sampler(frequency_penalty=-0.5),
]


# Of the second width and scale, many rows need more than the first 16 candidates.
@pytest.mark.parametrize(
    "seed, width, scale", once_but([(0, 12, 2.0), (1, 400, 0.5), (2, 400, 4.0)], (1, 400, 0.5))
)
def test_a_row_gets_what_its_own_sampler_gives_it_alone(seed, width, scale, monkeypatch):
    monkeypatch.setattr(Sampler, "candidates", 16)
    count = len(SAMPLERS)
    rows = different_logits(count, seed, width, scale)
    ids = np.random.default_rng(seed).integers(0, width, (count, 6))
    settings = row_settings(SAMPLERS)
    together = drawn(Sampler(), rows, context(count, 5, ids=ids, settings=settings, prompt=2))
    alone = [
        drawn(sampler, rows[i : i + 1], context(1, 5, [i], ids[i : i + 1], prompt=2))[0]
        for i, sampler in enumerate(SAMPLERS)
    ]
    assert together.tolist() == alone


def test_lists_of_numbers_are_those_numbers_row_by_row():
    rows = different_logits(3)
    lists = Sampler(temperature=[0, 0.5, 2.0], top_p=[0.5, 1.0, 0.9], top_k=[5, 12, 3])
    alone = [
        Sampler(temperature=t, top_p=p, top_k=k)
        for t, p, k in [(0, 0.5, 5), (0.5, 1, 12), (2, 0.9, 3)]
    ]
    got = [drawn(s, rows[i : i + 1], context(1, seeds=[i]))[0] for i, s in enumerate(alone)]
    assert drawn(lists, rows).tolist() == got


def test_settings_come_before_the_samplers_own_numbers():
    rows = different_logits(4)
    given = context(4, settings={"temperature": np.zeros(4, "float32")})
    assert (
        drawn(TopPSampler(0.99, temperature=5.0), rows, given).tolist() == rows.argmax(-1).tolist()
    )


def test_one_program_serves_whoever_comes():
    traces = []

    def choose(logits, ids, lengths, seeds, prompts, settings):
        traces.append(1)
        return Sampler()(logits, SamplingContext(ids, lengths, seeds, prompts, settings))

    program = compiler([]).program(choose)
    rows = keras.ops.convert_to_tensor(different_logits(4, width=50))
    for start in range(0, 12, 4):
        own = SAMPLERS[start : start + 4]
        given = context(4, settings=row_settings(own))
        got = keras.ops.convert_to_numpy(program(rows, *given)).tolist()
        alone = [
            drawn(sampler, keras.ops.convert_to_numpy(rows)[i : i + 1], context(1, seeds=[i]))[0]
            for i, sampler in enumerate(own)
        ]
        assert got == alone
    assert len(traces) == (3 if keras.config.backend() == "torch" else 1)  # PyTorch runs eagerly


def test_biases_and_bans_of_each_row_come_as_a_matrix():
    rows = different_logits(3)
    best = rows.argmax(-1).tolist()
    own = [GreedySampler(banned_tokens=[best[0]]), GreedySampler(logit_bias={4: 50.0}), Sampler()]
    settings = row_settings(own, vocabulary_size=rows.shape[1])
    got = drawn(Sampler(), rows, context(3, settings=settings))
    assert got[0] == np.argsort(-rows[0])[1]
    assert got[1] == 4
    assert got[2] == drawn(Sampler(), rows[2:], context(1, seeds=[2]))[0]
    with pytest.raises(ValueError, match="banned_tokens has id 12"):
        row_settings([Sampler(banned_tokens=[12])], vocabulary_size=12)


class Own(Sampler):
    """A rule that numbers don't tell."""


@pytest.mark.parametrize(
    "sampler, said",
    [
        (Own(), "Own can't share a program"),
        (BeamSampler(), "BeamSampler can't share a program"),
        (Sampler(steps=[lambda logits, context: logits]), "A sampler with steps can't share"),
        (Sampler(forced_tokens=[3]), "A sampler with forced_tokens can't share"),
        (Sampler(top_p=[0.5, 0.9]), "A sampler with top_p can't share"),
        (Sampler(banned_tokens=[3]), "logit_bias or banned_tokens shares a program through"),
    ],
)
def test_what_numbers_cannot_say_is_refused(sampler, said):
    with pytest.raises(ValueError, match=said):
        settings_of(sampler)
    with pytest.raises(ValueError, match=said):
        row_settings([Sampler(), sampler])


def test_no_number_is_missing():
    neutral = settings_of(Sampler())
    assert neutral == {
        "temperature": 1.0,
        "top_k": float("inf"),
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
