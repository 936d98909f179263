"""JAX's splash kernel, run as plain operations, computes what the formula does."""

import importlib

import keras
import numpy as np
import pytest
from conftest import close
from keras import ops

from keras_gemma.config import AttentionRules
from keras_gemma.layers import TokenPositions
from keras_gemma.layers.splash import fits_splash, splash

# The package has a function of the same name.
attend = importlib.import_module("keras_gemma.layers.attend")
pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="a kernel of JAX")
TOKENS, WIDTH = 256, 128
RULES = [(1, None, None), (2, 40, None), (4, None, 5.0)]  # key heads, window, soft cap


def rules(heads=1, window=None, soft_cap=None, width=WIDTH):
    return AttentionRules(4, heads, width, 0.1, soft_cap, window, 1e4, 1.0, False)


def arguments(heads, tokens=TOKENS):
    """Queries, keys, values; and a row with padding before it, one of three documents and padding."""
    random = np.random.default_rng(3)
    numbers = [random.normal(size=(2, tokens, n, WIDTH)) * 3 for n in (4, heads, heads)]
    segment = np.ones((2, tokens), "int32")
    segment[0, :60] = 0
    segment[1] = np.repeat([1, 2, 3, 0], [100, 90, tokens - 200, 10])
    positions = TokenPositions()(ops.convert_to_tensor(segment))
    return [ops.convert_to_tensor(x.astype("float32")) for x in numbers], positions, segment > 0


@pytest.mark.parametrize("rule", RULES)
def test_the_kernel_is_the_formula(rule):
    given, positions, real = arguments(rule[0])
    made = splash(*given, positions.segment, rules(*rule), interpret=True)
    expected = attend.formula(*given, positions, positions, rules(*rule))
    close(made, expected, where=real[..., None, None])


@pytest.mark.parametrize("rule", RULES)
def test_its_gradients_are_the_formulas(rule):
    import jax

    given, positions, real = arguments(rule[0])
    weight = np.random.default_rng(0).normal(size=(2, TOKENS, 4, WIDTH)) * real[..., None, None]

    def by_kernel(*given):
        made = splash(*given, positions.segment, rules(*rule), interpret=True)
        return ops.sum(made * weight)

    def by_formula(*given):
        return ops.sum(attend.formula(*given, positions, positions, rules(*rule)) * weight)

    for made, expected in zip(*(jax.grad(f, (0, 1, 2))(*given) for f in (by_kernel, by_formula))):
        close(made, expected)


def test_a_tpu_asks_for_it_where_a_text_looks_at_itself(monkeypatch):
    given, positions, _ = arguments(1)
    asked = []
    monkeypatch.setattr(attend, "runs_splash", lambda: True)
    monkeypatch.setattr(attend, "splash", lambda q, *a, **k: asked.append(q.shape) or q)
    attend.attend(*given, positions, positions, rules())
    assert asked == [(2, TOKENS, 4, WIDTH)]
    others = type(positions)(*positions)  # keys that a cache remembers
    attend.attend(*given, positions, others, rules())
    attend.attend(*given, positions, positions, rules(), drop=lambda x: x)
    assert len(asked) == 1


def test_lengths_and_widths_that_it_does_not_take_are_left_to_the_formula():
    assert fits_splash(384, rules())
    assert not fits_splash(100, rules()) and not fits_splash(None, rules())
    assert not fits_splash(256, rules(width=96))
