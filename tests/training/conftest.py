"""A model that trains in no time, and texts for it."""

import keras
import pytest

from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor

SIZES = {
    "num_layers": 1,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 64,
    "head_dim": 8,
}


@pytest.fixture
def new_model(tokenizer):
    """`new_model(seed=1)`: always the same, as a script that is started again makes it."""

    def make(seed=1, **sizes):
        keras.utils.set_random_seed(seed)
        sizes = {**SIZES, "vocabulary_size": tokenizer.vocabulary_size(), **sizes}
        return GemmaCausalLM(GemmaBackbone(**sizes), GemmaCausalLMPreprocessor(tokenizer, 24))

    return make


@pytest.fixture
def model(new_model):
    """A model whose `again(seed)` sets it back to how it began, with what was compiled for it."""
    model = new_model()
    model.optimizer.build(model.trainable_variables)
    first = [(v, keras.ops.convert_to_numpy(v).copy()) for v in _changing(model)]

    def again(seed=1):
        keras.utils.set_random_seed(seed)
        for variable, value in first:
            variable.assign(value)
        return model

    model.again = again
    return model


@pytest.fixture
def texts():
    animals = ("cat", "dog", "hen")
    return [f"the {animal} saw {count} boats" for animal in animals for count in range(5)]


def _changing(model):
    return [*model.variables, *model.optimizer.variables]
