"""What is asked of a sampler wrongly is told, with what would be right."""

import numpy as np
import pytest
from sampler_examples import WIDTH, context, drawn, logits

from keras_gemma.samplers import (
    BeamSampler,
    ContrastiveSampler,
    GreedySampler,
    MinPSampler,
    RandomSampler,
    Sampler,
    TopKSampler,
    TopPSampler,
    TypicalSampler,
)

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "made, arguments, said",
    [
        (TopKSampler, {"k": 0}, "k must be a whole number of at least 1, not 0"),
        (TopKSampler, {"k": 2.5}, "k must be"),
        (TopKSampler, {"k": NAN}, "k must be"),
        (Sampler, {"top_k": -1}, "top_k must be a whole number of at least 1, not -1"),
        (TopPSampler, {"p": 1.5}, r"p must be in \[0, 1\], not 1.5"),
        (TopPSampler, {"p": NAN}, r"p must be in \[0, 1\], not nan"),
        (Sampler, {"top_p": -0.1}, r"top_p must be in \[0, 1\], not -0.1"),
        (TopPSampler, {"k": -1}, "k must be"),
        (MinPSampler, {"p": 1.5}, r"p must be in \[0, 1\], not 1.5"),
        (Sampler, {"min_p": NAN}, r"min_p must be in \[0, 1\]"),
        (TypicalSampler, {"p": 0.0}, "p must be above 0, and at most 1, not 0.0"),
        (Sampler, {"typical_p": 1.1}, "typical_p must be above 0, and at most 1, not 1.1"),
        (RandomSampler, {"temperature": -1.0}, "temperature must be 0 or more, and finite, not -1"),
        (RandomSampler, {"temperature": NAN}, "temperature must be 0 or more, and finite, not nan"),
        (RandomSampler, {"temperature": INF}, "temperature must be 0 or more, and finite, not inf"),
        (GreedySampler, {"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
        (Sampler, {"repetition_penalty": INF}, "repetition_penalty must be above 0, and finite"),
        (Sampler, {"presence_penalty": NAN}, "presence_penalty must be finite, not nan"),
        (Sampler, {"frequency_penalty": -INF}, "frequency_penalty must be finite, not -inf"),
        (Sampler, {"top_p": [0.5, 1.5]}, r"top_p must be in \[0, 1\], not 1.5 \(row 1\)"),
        (Sampler, {"temperature": [1.0, NAN]}, r"temperature must be .*not nan \(row 1\)"),
        (Sampler, {"logit_bias": {-1: 1.0}}, "logit_bias has id -1: ids count from 0"),
        (Sampler, {"logit_bias": {1: NAN}}, "bias of id 1 must be finite"),
        (Sampler, {"logit_bias": {1: INF}}, "bias of id 1 must be finite.*use forced_tokens"),
        (Sampler, {"logit_bias": {1: [1.0, 2.0], 2: [1.0] * 3}}, r"lists of \[2, 3\] numbers"),
        (Sampler, {"banned_tokens": [-3]}, "banned_tokens has id -3"),
        (Sampler, {"forced_tokens": [-3]}, "forced_tokens has id -3"),
        (Sampler, {"forced_tokens": {-1: 3}}, "forced_tokens has place -1"),
        (
            Sampler,
            {"forced_tokens": [5], "banned_tokens": [5]},
            "forced_tokens has id 5, which is banned",
        ),
        (
            Sampler,
            {"forced_tokens": [5], "logit_bias": {5: -INF}},
            "forced_tokens has id 5, which is banned",
        ),
        (
            Sampler,
            {"temperature": [1.0, 2.0], "top_p": [0.5] * 3},
            "unlike rows: {'temperature': 2, 'top_p': 3}",
        ),
        (GreedySampler, {"top_k": 5}, "GreedySampler draws nothing, so top_k would do nothing"),
        (BeamSampler, {"top_p": 0.5}, "BeamSampler draws nothing"),
        (BeamSampler, {"num_beams": 0}, "num_beams must be a whole number of at least 1, not 0"),
        (BeamSampler, {"num_beams": 2.0}, "num_beams must be"),
        (ContrastiveSampler, {"k": 0}, "k must be a whole number of at least 1"),
        (ContrastiveSampler, {"alpha": 1.5}, r"alpha must be in \[0, 1\], not 1.5"),
        (ContrastiveSampler, {"alpha": NAN}, r"alpha must be in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_told_with_their_range(made, arguments, said):
    with pytest.raises(ValueError, match=said):
        made(**arguments)


@pytest.mark.parametrize(
    "made, arguments, said",
    [
        (Sampler, {"temperature": "0.7"}, "temperature must be a number, or a list of one"),
        (Sampler, {"temperature": None}, "temperature must be a number"),
        (Sampler, {"temperature": True}, "temperature must be a number"),
        (Sampler, {"top_p": []}, "top_p must be a number, or a list"),
        (Sampler, {"top_p": [0.5, None]}, "top_p must be a number, or a list"),
        (Sampler, {"top_p": np.ones((2, 2))}, "top_p must be a number, or a list"),
        (Sampler, {"logit_bias": {"the": 1.0}}, "logit_bias takes ids of tokens, not 'the'"),
        (Sampler, {"logit_bias": {1: "much"}}, "bias of id 1 must be a number, not 'much'"),
        (Sampler, {"logit_bias": 3}, "logit_bias is a dict of id to number, not 3"),
        (Sampler, {"banned_tokens": [1.5]}, "banned_tokens takes ids of tokens, not 1.5"),
        (Sampler, {"forced_tokens": "yes"}, "forced_tokens takes ids of tokens, not 'y'"),
        (Sampler, {"steps": [3]}, r"A sampling step is a function \(logits, context\)"),
        (Sampler, {"steps": ["nobody knows it"]}, "A sampling step is a function"),
        (BeamSampler, {"return_all_beams": 1}, "return_all_beams must be True or False"),
    ],
)
def test_values_of_another_kind_are_told(made, arguments, said):
    with pytest.raises(TypeError, match=said):
        made(**arguments)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"logit_bias": {12: 1.0}}, "logit_bias has id 12, .* vocabulary of 12: 0 to 11"),
        ({"banned_tokens": [3, 40]}, "banned_tokens has id 40, .* vocabulary of 12"),
        ({"forced_tokens": [99]}, "forced_tokens has id 99"),
        ({"banned_tokens": range(12)}, "All 12 tokens are banned"),
        ({"logit_bias": {i: [0.0, -INF] for i in range(12)}}, "All 12 tokens are banned"),
    ],
)
def test_ids_are_checked_as_soon_as_the_vocabulary_is_known(arguments, said):
    sampler = Sampler(**arguments)
    with pytest.raises(ValueError, match=said):
        sampler.check(WIDTH)
    with pytest.raises(ValueError, match=said):
        drawn(sampler, logits(2))


def test_numbers_per_row_must_be_as_many_as_there_are_rows():
    with pytest.raises(ValueError, match="temperature has 2 numbers, and there are 3 rows"):
        drawn(Sampler(temperature=[1.0, 2.0]), logits(3))
    with pytest.raises(ValueError, match="logit_bias has 2 numbers, and there are 3 rows"):
        drawn(Sampler(logit_bias={3: [1.0, 2.0]}), logits(3))


def test_settings_of_unknown_names_are_refused():
    given = context(2, settings={"temprature": np.ones(2, "float32")})
    with pytest.raises(ValueError, match="settings has 'temprature'; it may have temperature, "):
        drawn(Sampler(), logits(2), given)


@pytest.mark.parametrize("made", [BeamSampler, ContrastiveSampler])
def test_a_search_chooses_no_token_alone(made):
    with pytest.raises(NotImplementedError, match=f"{made.__name__} compares texts"):
        drawn(made(), logits())
