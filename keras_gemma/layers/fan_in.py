"""How new weights are drawn, and how that is left out where they are loaded anyway."""

import contextlib
import contextvars
from collections.abc import Iterator

import keras

from keras_gemma.arrays import blank

_blank = contextvars.ContextVar("blank", default=False)


@contextlib.contextmanager
def left_blank() -> Iterator[None]:
    """Weights made inside are not drawn: a file is about to replace them."""
    token = _blank.set(True)
    try:
        yield
    finally:
        _blank.reset(token)


@keras.saving.register_keras_serializable(package="keras_gemma")
class FanIn(keras.initializers.RandomNormal):
    """Normal draws with variance `1 / inputs`, so that a sum over the inputs has unit variance.

    Keras guesses the inputs from a kernel's shape, and guesses wrong for heads in three axes.
    """

    def __init__(self, inputs: int, seed: int | None = None):
        super().__init__(stddev=inputs**-0.5, seed=seed)
        self.inputs = inputs

    def __call__(self, shape, dtype=None):
        return blank(shape, dtype) if _blank.get() else super().__call__(shape, dtype)

    def get_config(self):
        return {"inputs": self.inputs, "seed": self._init_seed}
