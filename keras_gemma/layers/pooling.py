"""One vector for a whole text: that of its last token, or the mean of all.

B batch, T tokens, D model width.
"""

from typing import Literal

import keras
from keras import ops

MODES = ("last", "mean")


@keras.saving.register_keras_serializable(package="keras_gemma")
class TokenPooling(keras.layers.Layer):
    """Hidden states to one float32 vector a row, `(B, T, D)` to `(B, D)`.

    Padding has no part in it, on whichever side and however much of it there is: the last token is
    the last real one. A row of nothing but padding gives zeros.

    >>> x = keras.ops.array([[[9.0], [1.0], [3.0], [9.0]]])
    >>> mask = keras.ops.array([[0, 1, 1, 0]])
    >>> [float(TokenPooling(mode)(x, mask)[0, 0]) for mode in MODES]
    [3.0, 2.0]
    """

    def __init__(self, mode: Literal["last", "mean"] = "last", **kwargs):
        # A sum over a text in bfloat16 would lose most of what is added last.
        super().__init__(**{**kwargs, "dtype": "float32"})
        if mode not in MODES:
            raise ValueError(f"pooling_mode must be one of {', '.join(MODES)}, not {mode!r}.")
        self.mode = mode

    def call(self, x_BTD, padding_mask):
        real_BT = ops.cast(padding_mask > 0, "float32")
        if self.mode == "mean":
            share_BT = real_BT / ops.maximum(ops.sum(real_BT, axis=1, keepdims=True), 1.0)
        else:  # after the last real token none is left to come
            left_BT = ops.flip(ops.cumsum(ops.flip(real_BT, 1), axis=1), 1)
            share_BT = real_BT * ops.cast(left_BT == 1, "float32")
        return ops.einsum("btd,bt->bd", x_BTD, share_BT)

    def compute_output_spec(self, x_BTD, padding_mask):
        return keras.KerasTensor((x_BTD.shape[0], x_BTD.shape[2]), "float32")

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}


@keras.saving.register_keras_serializable(package="keras_gemma")
class UnitLength(keras.layers.Layer):
    """Vectors of length 1, so that their products are the cosines of their angles; zeros stay so."""

    def call(self, x_BD):
        # Bounded before the root, whose slope at 0 is infinite and would make gradients of padding NaN.
        square_B1 = ops.sum(ops.square(x_BD), axis=-1, keepdims=True)
        return x_BD * ops.rsqrt(ops.maximum(square_B1, 1e-12))
