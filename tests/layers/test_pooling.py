"""A text's vector does not depend on padding."""

import keras
import numpy as np
import pytest
from conftest import close
from keras import ops

from keras_gemma.layers import TokenPooling, UnitLength

X_BTD = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
# Padding on the right, on the left, on both sides with two segments, and none.
MASK_BT = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 2, 2, 0], [1] * 6], "int32")


def test_the_last_token_is_the_last_real_one():
    close(TokenPooling("last")(X_BTD, MASK_BT), X_BTD[np.arange(4), [2, 5, 4, 5]], 1e-7)


def test_the_mean_is_of_real_tokens():
    expected = [row[mask > 0].mean(axis=0) for row, mask in zip(X_BTD, MASK_BT)]
    close(TokenPooling("mean")(X_BTD, MASK_BT), np.array(expected), 1e-6)


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_bfloat16_states_are_summed_in_float32(mode):
    x_BTD = ops.cast(X_BTD, "bfloat16")
    pooled = TokenPooling(mode)(x_BTD, MASK_BT)
    assert keras.backend.standardize_dtype(pooled.dtype) == "float32"
    close(pooled, TokenPooling(mode)(ops.cast(x_BTD, "float32"), MASK_BT), 1e-7)


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_a_row_of_padding_gives_zeros(mode):
    pooled = UnitLength()(TokenPooling(mode)(X_BTD[:1], np.zeros((1, 6), "int32")))
    assert not np.asarray(ops.convert_to_numpy(pooled)).any()


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="last, mean, not 'max'"):
        TokenPooling("max")
