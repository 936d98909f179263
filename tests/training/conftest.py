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
TEXTS = [
    f"the {animal} saw {count} boats" for animal in ("cat", "dog", "hen") for count in range(5)
]


@pytest.fixture
def new_model(tokenizer):
    """`new_model(seed=1, dropout=…)`: always the same, as a script that is started again makes it."""

    def make(seed=1, **sizes):
        keras.utils.set_random_seed(seed)
        sizes = {**SIZES, "vocabulary_size": tokenizer.vocabulary_size(), **sizes}
        return GemmaCausalLM(GemmaBackbone(**sizes), GemmaCausalLMPreprocessor(tokenizer, 12))

    return make


@pytest.fixture
def texts():
    return list(TEXTS)
