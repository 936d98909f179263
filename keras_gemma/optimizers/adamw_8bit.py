"""AdamW whose state takes a quarter of the memory."""

import math
from typing import Any

import keras
from keras import ops

from keras_gemma.optimizers import in_place
from keras_gemma.optimizers.adamw import AdamW
from keras_gemma.optimizers.base import Float32Optimizer
from keras_gemma.optimizers.eight_bits import BLOCK, MEANS, SQUARES
from keras_gemma.random_bits import random_bits

SMALLEST = 4096  # numbers of a weight whose state is worth coding, as in the paper


@keras.saving.register_keras_serializable(package="keras_gemma")
class AdamW8bit(AdamW):
    """AdamW with a state of 8 bits a number (arXiv 2110.02861): 2.03 bytes for each weight, not 8.

    A block of 256 numbers shares a float32 scale. Weights of fewer than 4,096 numbers, or of no whole
    number of blocks, keep a float32 state: in Gemma, those of the norms.

    Args:
        learning_rate: a number, or a `keras.optimizers.schedules.LearningRateSchedule`.
        **kwargs: as in `AdamW`, but `state_dtype`.

    >>> weight = keras.Variable(ops.zeros((256, 16)))
    >>> optimizer = AdamW8bit(1e-3)
    >>> optimizer.build([weight])
    >>> [(v.dtype, tuple(v.shape)) for v in optimizer.variables[2:4]]
    [('int8', (16, 256)), ('float32', (16, 1))]
    """

    def __init__(self, learning_rate: Any = 1e-3, name: str = "adamw_8bit", **kwargs: Any):
        if "state_dtype" in kwargs:
            raise TypeError("state_dtype is AdamW's: the state of AdamW8bit has 8 bits a number.")
        super().__init__(learning_rate, name=name, **kwargs)

    def build(self, variables):
        if self.built:
            return
        Float32Optimizer.build(self, variables)
        self._momentums, self._velocities, self._codes = [], [], []
        for variable in variables:
            blocks, rest = divmod(math.prod(variable.shape), BLOCK)
            if rest or blocks * BLOCK < SMALLEST:
                mean, square = self.add_optimizer_variables([variable], ["momentum", "velocity"])
                self._momentums += mean
                self._velocities += square
                self._codes.append(None)
                continue
            self._momentums.append(None)
            self._velocities.append(None)
            self._codes.append([])
            for slot, code in (("momentum", MEANS), ("velocity", SQUARES)):
                name = f"{variable.path.replace('/', '_')}_{slot}"
                self._codes[-1] += [
                    self.add_variable((blocks, BLOCK), dtype=code.dtype, name=name),
                    self.add_variable((blocks, 1), name=f"{name}_scale"),
                ]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        if self._codes[index] is None:
            super().update_step(gradient, variable, learning_rate)
            return
        numbers = self._numbers(index, learning_rate)

        def formula(places, weight, means, mean_scale, squares, square_scale, gradient):
            mean, square = numbers.moments(
                MEANS.decode(means, mean_scale),
                SQUARES.decode(squares, square_scale),
                self.scaled(gradient),
            )
            # Rounded apart, a mean could come to stand over a square of nearly nothing.
            most = numbers.largest_ratio() * ops.sqrt(square)
            mean = ops.clip(mean, -most, most)
            new = numbers.weight(ops.cast(weight, "float32"), mean, square)
            return [
                self.rounded(new, weight.dtype, index, 0, places),
                *MEANS.encode(mean, self._uniform(index, 1, places)),
                *SQUARES.encode(square, self._uniform(index, 2, places)),
            ]

        rows = self._codes[index][0].shape[0]
        in_place.replace(self, formula, [variable, *self._codes[index]], [gradient], rows)

    def _uniform(self, index, slot, places):
        if not self.stochastic_rounding:
            return 0.5
        seed, step = (ops.cast(x, "int32") for x in (self.noise_seed(index, slot), self.iterations))
        return ops.cast(random_bits(seed, step, places()) & 0xFFFFFF, "float32") * 2.0**-24

    def get_config(self):
        config = super().get_config()
        del config["state_dtype"]
        return config
