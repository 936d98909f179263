"""Root-mean-square normalization (arXiv 1910.07467) with Gemma's shifted scale."""

import keras
from keras import ops

from keras_gemma.compilers import trains


def normalize(x, scale, epsilon: float, dtype: str):
    """`x / rms(x) * (1 + scale)` over the last axis, in float32, rounded once at the end."""
    if trains(x):
        from keras_gemma.layers.torch_gradients import Normalize

        return ops.cast(Normalize.apply(x, ops.convert_to_tensor(scale), epsilon), dtype)
    wide = ops.cast(x, "float32")
    mean_square = ops.mean(ops.square(wide), axis=-1, keepdims=True)
    normed = wide * ops.rsqrt(mean_square + epsilon)
    return ops.cast(normed * (1.0 + ops.cast(scale, "float32")), dtype)


@keras.saving.register_keras_serializable(package="keras_gemma")
class RMSNormalization(keras.layers.Layer):
    """A layer around `normalize`.

    >>> RMSNormalization()(keras.ops.array([[3.0, 4.0]])).shape == (1, 2)
    True
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        return normalize(x, self.scale, self.epsilon, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
