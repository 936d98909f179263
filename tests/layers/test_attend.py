"""The kernel of a device and the formula give the same."""

import importlib

import keras
import numpy as np
import pytest
from conftest import close, once_but
from keras import ops

from keras_gemma.config import AttentionRules
from keras_gemma.layers import Positions, TokenPositions

# The package has a function of the same name.
attend = importlib.import_module("keras_gemma.layers.attend")

HEADS = [1, 2, 4]
TOKENS = 12


def rules(heads=2, window=None, soft_cap=None):
    return AttentionRules(
        num_query_heads=4,
        num_key_value_heads=heads,
        head_dim=8,
        scale=0.5,
        soft_cap=soft_cap,
        window=window,
        rope_base=1e4,
        rope_scaling=1.0,
        normalize_query_key=False,
    )


def arguments(heads):
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(2, TOKENS, n, 8)).astype("float32") for n in (4, heads, heads))
    # A whole row; and one of padding, two packed documents and padding again.
    segment = np.array([[1] * TOKENS, [0, 0, *[1] * 4, *[2] * 5, 0]], "int32")
    index = np.array([range(TOKENS), [0, 0, *range(4), *range(5), 5]], "int32")
    places = Positions(ops.convert_to_tensor(index), ops.convert_to_tensor(segment))
    return *map(ops.convert_to_tensor, (q * 3, k, v)), places, places


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("heads", HEADS)
def test_both_sides_of_the_door(monkeypatch, heads, window):
    given, rule = arguments(heads), rules(heads, window)
    plain = attend.attend(*given, rule)
    close(attend.formula(*given, rule), plain, 0)
    asked = []
    monkeypatch.setattr(attend, "fuses_attention", lambda: True)
    kernel = ops.dot_product_attention
    monkeypatch.setattr(
        ops, "dot_product_attention", lambda *a, **k: asked.append(1) or kernel(*a, **k)
    )
    by_kernel = ops.convert_to_numpy(attend.attend(*given, rule))
    assert asked and np.isfinite(by_kernel).all()
    # What a row of padding attends to is nobody's business.
    real = ops.convert_to_numpy(given[3].segment) > 0
    close(by_kernel, plain, where=real[:, :, None, None])


def test_what_the_kernel_does_not_compute_is_left_to_the_formula(monkeypatch):
    monkeypatch.setattr(attend, "fuses_attention", lambda: True)
    monkeypatch.setattr(attend, "fused", None)  # calling it would fail
    capped = attend.attend(*arguments(2), rules(soft_cap=20.0))
    assert np.isfinite(ops.convert_to_numpy(capped)).all()
    q, k, v, queries, keys = arguments(2)
    one = Positions(queries.index[:, -1:], queries.segment[:, -1:])
    assert attend.attend(q[:, -1:], k, v, one, keys, rules()).shape == (2, 1, 4, 8)
    dropped = attend.attend(*arguments(2), rules(), drop=lambda x: x * 0)
    assert not ops.convert_to_numpy(dropped).any()


def test_the_kernel_is_declined_by_keras_own_switch(monkeypatch):
    monkeypatch.setattr(attend, "fuses_attention", lambda: True)
    monkeypatch.setattr(attend, "fused", lambda *given: "by the kernel")
    assert attend.attend(*arguments(2), rules()) == "by the kernel"
    keras.config.disable_flash_attention()
    try:
        assert attend.attend(*arguments(2), rules()).shape == (2, TOKENS, 4, 8)
    finally:
        keras.config.enable_flash_attention()


@pytest.mark.parametrize(
    "length, heads, window, soft_cap",
    once_but(
        [(128, 1, None, None), (129, 4, 7, None), (300, 2, None, 20.0), (513, 1, None, None)],
        (129, 4, 7, None),
        (300, 2, None, 20.0),
    ),
)
def test_a_text_in_blocks_is_the_text_at_once(monkeypatch, length, heads, window, soft_cap):
    random = np.random.default_rng(1)
    arrays = (3 * random.normal(size=(3, length, n, 8)) for n in (4, heads, heads))
    place, third = np.arange(length), length // 3
    segments = np.stack(  # whole; padded on both sides; packed
        [place >= 0, (place > third) & (place < 2 * third), 1 + (place > third)]
    ).astype("int32")
    positions = TokenPositions()(ops.convert_to_tensor(segments))
    arrays = [ops.convert_to_tensor(x, "float32") for x in arrays]
    rule, parts = rules(heads, window, soft_cap), []
    formula = attend.formula
    expected = formula(*arrays, positions, positions, rule)
    monkeypatch.setattr(
        attend, "formula", lambda q, k, *more: parts.append(k.shape[1]) or formula(q, k, *more)
    )
    made = attend.attend(*arrays, positions, positions, rule)
    assert (
        parts
        == {128: [128], 129: [128, 129], 300: [128, 256, 300], 513: [129, 258, 387, 513]}[length]
    )
    close(made, expected, 2e-6, where=(segments > 0)[:, :, None, None])
