"""Samplers are found by name, object, class and config."""

import json

import keras
import pytest
from keras import ops

from keras_gemma import samplers
from keras_gemma.samplers import GreedySampler, Sampler, TopKSampler, TopPSampler, TypicalSampler

NAMES = {
    "greedy": "GreedySampler",
    "random": "RandomSampler",
    "top_k": "TopKSampler",
    "top_p": "TopPSampler",
    "beam": "BeamSampler",
    "contrastive": "ContrastiveSampler",
    "min_p": "MinPSampler",
    "typical": "TypicalSampler",
}
OF_KERAS_HUB = list(NAMES.values())[:6]


def test_names_objects_and_classes_are_taken():
    sampler = TopKSampler(7)
    assert samplers.get(sampler) is sampler
    assert isinstance(samplers.get(GreedySampler), GreedySampler)
    assert {name: type(samplers.get(name)).__name__ for name in NAMES} == NAMES


def test_positional_arguments_are_those_of_keras_hub():
    assert TopKSampler(7, 3).get_config() == {"temperature": 1.0, "k": 7, "seed": 3}
    assert TopPSampler(0.2, 9, 3).get_config() == {"temperature": 1.0, "p": 0.2, "k": 9, "seed": 3}


@pytest.mark.parametrize("name", OF_KERAS_HUB)
def test_defaults_are_those_of_keras_hub(name):
    theirs = pytest.importorskip("keras_hub").samplers
    sampler = getattr(theirs, name)()
    assert getattr(samplers, name)().get_config() == sampler.get_config()
    again = samplers.get(theirs.serialize(sampler))
    assert type(again).__module__.startswith("keras_gemma")
    assert type(again).__name__ == name


@keras.saving.register_keras_serializable(package="tests_of_samplers")
def halved(logits, context):
    """A step that can be saved."""
    return logits / 2


@pytest.mark.parametrize(
    "sampler",
    [
        TopPSampler(0.5, 40, seed=3, temperature=0.7, repetition_penalty=1.2),
        TypicalSampler(0.3, presence_penalty=0.5, frequency_penalty=-0.5),
        samplers.BeamSampler(3, True, banned_tokens=[4]),
        samplers.ContrastiveSampler(4, 0.5),
        Sampler(
            [0.5, 1.0],
            top_k=[3, 9],
            top_p=0.9,
            min_p=0.01,
            typical_p=0.8,
            logit_bias={4: 1.0, 7: [0.5, float("-inf")]},
            banned_tokens=[5],
            forced_tokens={1: 8},
            steps=[halved],
            seed=4,
        ),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_there_and_back_by_config(sampler):
    serialized = json.loads(json.dumps(samplers.serialize(sampler)))
    for again in (
        samplers.deserialize(serialized),
        keras.saving.deserialize_keras_object(serialized),
        type(sampler).from_config(sampler.get_config()),
    ):
        assert type(again) is type(sampler)
        assert again.get_config() == sampler.get_config()
        assert again.steps == sampler.steps
        assert again.forced_tokens == sampler.forced_tokens
        assert again.token_rules.ids.tolist() == sampler.token_rules.ids.tolist()
        assert again.token_rules.bias.tolist() == sampler.token_rules.bias.tolist()


def test_a_step_without_a_registered_name_is_not_saved():
    with pytest.raises(ValueError, match="step <lambda> can't be saved.*register_keras_serial"):
        Sampler(steps=[lambda logits, context: logits]).get_config()

    class Halving:
        def __call__(self, logits, context):
            return logits / 2

    with pytest.raises(ValueError, match="step Halving can't be saved"):
        Sampler(steps=[Halving()]).get_config()


def test_a_class_of_ones_own_is_found_where_it_is_given():
    class Last(Sampler):
        def get_next_token(self, probabilities):
            return ops.full((len(probabilities),), probabilities.shape[-1] - 1)

    config = {"class_name": "Last", "config": {"temperature": 0.5}}
    assert samplers.deserialize(config, {"Last": Last}).temperature == 0.5
    with pytest.raises(ValueError, match="Unknown sampler 'Last'"):
        samplers.deserialize(config)


def test_nothing_is_imported_by_a_name_in_a_config():
    config = {"module": "subprocess", "class_name": "Popen", "config": {"args": "true"}}
    with pytest.raises(ValueError, match="Unknown sampler 'Popen'"):
        samplers.get(config)


@pytest.mark.parametrize(
    "name, near", [("topk", "top_k"), ("Greedy", "greedy"), ("rando", "random")]
)
def test_the_nearest_name_is_suggested(name, near):
    with pytest.raises(ValueError, match=f"Did you mean '{near}'"):
        samplers.get(name)


@pytest.mark.parametrize("thing", [None, 3, lambda logits: logits])
def test_what_is_no_sampler_is_refused(thing):
    with pytest.raises(TypeError, match="A sampler is a name"):
        samplers.get(thing)
