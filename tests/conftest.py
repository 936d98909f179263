"""Small models that every test may ask for."""

import gc

import keras
import numpy as np
import pytest

# Runs in another environment, which has llama-cpp-python.
collect_ignore = ["conversion/llama_cpp_process.py"]
# Tracing makes millions of small objects that live: to look through them all the time takes an eighth of a run.
gc.set_threshold(200_000, 20, 20)

SIZES = {
    "vocabulary_size": 96,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 64,
    "head_dim": 8,
}
WINDOWED = {"use_sliding_window_attention": True, "sliding_window_size": 4}


def loud(model, seed=0, scale=0.6):
    """Weights large enough that every option shows: scores pass 50, norm scales are not zero."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.path.endswith("seed_generator_state"):
            continue
        spread = 0.3 if variable.path.endswith("scale") else scale
        variable.assign(random.normal(0, spread, variable.shape))
    return model


def close(got, expected, bar=2e-5, where=None):
    """Largest difference, in units of the largest expected value, is at most `bar`."""
    got, expected = (np.asarray(keras.ops.convert_to_numpy(x), "float64") for x in (got, expected))
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    difference = np.abs(got - expected)
    if where is not None:
        difference = difference * where
    error = difference.max() / np.abs(expected).max()
    assert error <= bar, f"largest difference {error:.2e} of the largest value, over {bar:.0e}"


def once_but(cases, *everywhere):
    """Cases of `parametrize`: those of `everywhere` run on each backend, the others on one of them."""

    def marked(case):
        values = case if isinstance(case, tuple) else (case,)
        return pytest.param(*values, marks=() if case in everywhere else pytest.mark.once)

    return [marked(case) for case in cases]


def pytest_collection_finish():
    """Leave what tests import out of the search: Keras starts one for each layer that it quantizes."""
    gc.freeze()


@pytest.fixture
def backbone():
    from keras_gemma import GemmaBackbone

    return loud(GemmaBackbone(**SIZES, **WINDOWED))


@pytest.fixture(scope="session")
def tokenizer():
    """A small vocabulary, for tests that need text but no trained model."""
    from vocabularies import TURNS, train

    from keras_gemma import GemmaTokenizer

    return GemmaTokenizer(train([*TURNS, "\n"]))
