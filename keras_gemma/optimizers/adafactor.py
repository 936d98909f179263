"""Adafactor (arXiv 1804.04235) that trains weights of any dtype, in hardly any memory."""

import math
from typing import Any

import keras
from keras import ops

from keras_gemma.optimizers import in_place
from keras_gemma.optimizers.base import Float32Optimizer


@keras.saving.register_keras_serializable(package="keras_gemma")
class Adafactor(Float32Optimizer, keras.optimizers.Adafactor):
    """Keras's Adafactor, with an update in float32 whatever the weights are.

    Of the squares of a matrix's gradients it remembers the means of rows and columns: for a Gemma,
    less than a thousandth of the weights. (Keras's own keeps their product too, of the size and in
    the dtype of the weight.)

    Args:
        learning_rate: a number, or a `keras.optimizers.schedules.LearningRateSchedule`.
        **kwargs: as in `keras.optimizers.Adafactor` and `Float32Optimizer`.

    >>> weight = keras.Variable(ops.zeros((300, 200)))
    >>> optimizer = Adafactor(1e-2)
    >>> optimizer.build([weight])
    >>> [tuple(v.shape) for v in optimizer.variables[2:]]
    [(300,), (200,)]
    """

    def __init__(self, learning_rate: Any = 1e-3, name: str = "adafactor", **kwargs: Any):
        super().__init__(learning_rate, name=name, **kwargs)

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        if name == "velocity" and len(reference_variable.shape) > 1:
            return None  # the product that Keras would keep
        return super().add_variable_from_reference(reference_variable, name, initializer)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        gradient, rate = self.scaled(gradient), ops.cast(learning_rate, "float32")
        step = ops.cast(self.iterations + 1, "float32")
        self._remember(index, gradient, 1 - ops.power(step, self.beta_2_decay))
        kept = 1 - rate * self.decay_of(index)
        change = gradient / ops.sqrt(self._squares(index))
        step_size = ops.minimum(rate, 1 / ops.sqrt(step))
        step_size = step_size * ops.maximum(self.epsilon_2, kept * self._rms(variable))
        step_size = step_size / ops.maximum(1.0, self._rms(change) / self.clip_threshold)

        def formula(places, weight, change):
            new = ops.cast(weight, "float32") * kept - step_size * change
            return (self.rounded(new, weight.dtype, index, 0, places),)

        in_place.replace(self, formula, [variable], [change])

    def _rms(self, x):
        x = ops.convert_to_tensor(x)
        return ops.sqrt(in_place.sum_of_squares(x) / math.prod(x.shape))

    def _remember(self, index, gradient, memory):
        squares = ops.square(gradient) + self.epsilon_1
        if self._v[index] is not None:
            self.assign(self._v[index], _mixed(memory, self._v[index], squares))
            return
        for slot, axis in ((self._r[index], -1), (self._c[index], -2)):
            self.assign(slot, _mixed(memory, slot, ops.mean(squares, axis=axis)))

    def _squares(self, index):
        """What is known of the mean of squares: the product of its rows' and its columns' means."""
        if self._v[index] is not None:
            return ops.convert_to_tensor(self._v[index])
        rows, columns = (ops.convert_to_tensor(s[index]) for s in (self._r, self._c))
        rows = rows / ops.mean(rows, axis=-1, keepdims=True)
        return ops.expand_dims(rows, -1) * ops.expand_dims(columns, -2)


def _mixed(memory, old, new):
    return memory * ops.convert_to_tensor(old) + (1 - memory) * new
