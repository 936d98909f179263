"""What `keras.config.set_floatx` says is of numbers that are not whole: texts stay as they are."""

import keras
import numpy as np
import pytest
from conftest import SIZES, WINDOWED, loud

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.generation.state import tensor
from keras_gemma.samplers import BeamSampler, ContrastiveSampler, Sampler

PROMPT = np.random.default_rng(3).integers(1, 96, 11).tolist()
AGAIN = [7, 8, 9, 10] * 3
RICH = {
    "top_k": 20,
    "top_p": 0.9,
    "typical_p": 0.9,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.1,
}
COMPILED = {
    "variables": {"sampler": "greedy", "plan": "none"},
    "rich": {"sampler": Sampler(0.8, **RICH, logit_bias={5: 1.0}, forced_tokens=[None, 9])},
    "beam": {"sampler": BeamSampler(3)},
    "contrastive": {"sampler": ContrastiveSampler(3, 0.4)},
    "lookup": {"sampler": "greedy", "draft": "prompt_lookup", "cache": "int8"},
}


@pytest.fixture
def floatx():
    """Sets it, and sets it back."""
    before = keras.config.floatx()
    yield keras.config.set_floatx
    keras.config.set_floatx(before)


def ids(options):
    model = GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED, dtype="bfloat16")))
    model.compile(**options)
    prompt = AGAIN if "draft" in options else PROMPT
    keywords = {"max_new_tokens": 6, "stop_token_ids": [1], "seed": 3}
    return model.generate_ids(prompt, **keywords)


# Others than JAX make their numbers in the dtypes that are asked for: one case sees to that.
@pytest.mark.parametrize("name", COMPILED if keras.backend.backend() == "jax" else ["rich"])
def test_texts_are_the_same_whatever_floatx_is(floatx, name):
    expected = ids(COMPILED[name])
    floatx("bfloat16")
    assert ids(COMPILED[name]) == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_arrays_of_the_host_keep_their_dtype(floatx, dtype):
    floatx(dtype)
    for name in ("int32", "bool", "float32"):
        made = tensor(np.ones((2, 3), name))
        assert keras.backend.standardize_dtype(made.dtype) == name


def test_texts_come_in_float16(floatx):
    floatx("float16")
    model = GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED), scale=0.1))
    model.compile(sampler="top_p", draft="prompt_lookup")
    assert len(model.generate_ids(AGAIN, max_new_tokens=6, stop_token_ids=None)) == 6
