"""Samplers are found by name, object, class and config."""

import keras
import pytest
from keras import ops

from keras_gemma import samplers
from keras_gemma.samplers import GreedySampler, Sampler, TopKSampler, TopPSampler


def test_names_objects_and_classes_are_taken():
    sampler = TopKSampler(7)
    assert samplers.get(sampler) is sampler
    assert isinstance(samplers.get(GreedySampler), GreedySampler)
    kinds = [type(samplers.get(name)).__name__ for name in ("greedy", "random", "top_k", "top_p")]
    assert kinds == ["GreedySampler", "RandomSampler", "TopKSampler", "TopPSampler"]


def test_positional_arguments_are_those_of_keras_hub():
    assert TopKSampler(7, 3).get_config() == {"temperature": 1.0, "k": 7, "seed": 3}
    assert TopPSampler(0.2, 9, 3).get_config() == {"temperature": 1.0, "p": 0.2, "k": 9, "seed": 3}


@pytest.mark.parametrize("name", ["GreedySampler", "RandomSampler", "TopKSampler", "TopPSampler"])
def test_defaults_are_those_of_keras_hub(name):
    theirs = pytest.importorskip("keras_hub").samplers
    sampler = getattr(theirs, name)()
    assert getattr(samplers, name)().get_config() == sampler.get_config()
    again = samplers.get(theirs.serialize(sampler))
    assert type(again).__module__.startswith("keras_gemma")
    assert type(again).__name__ == name


def test_there_and_back_by_config():
    sampler = TopPSampler(0.5, 40, seed=3, temperature=0.7, repetition_penalty=1.2)
    for again in (
        samplers.deserialize(samplers.serialize(sampler)),
        keras.saving.deserialize_keras_object(samplers.serialize(sampler)),
        TopPSampler.from_config(sampler.get_config()),
    ):
        assert isinstance(again, TopPSampler)
        assert again.get_config() == sampler.get_config()


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
