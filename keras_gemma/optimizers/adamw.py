"""AdamW (arXiv 1711.05101) that trains weights of any dtype."""

import math
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_gemma")
class AdamW(keras.optimizers.Optimizer):
    """PyTorch's AdamW, with state and update in float32 whatever the weights are.

    The state of Keras's own Adam has the dtype of the weights: in bfloat16, `beta_2=0.999` rounds
    to 1 and the weights never move. Here gradients are cast to float32 first, so that clipping,
    accumulation and the update see whole numbers, and only the new weight is rounded.

    Args:
        learning_rate: a number, or a `keras.optimizers.schedules.LearningRateSchedule`.
        weight_decay: share of a weight taken off each step, times the learning rate.
        beta_1: memory of the mean of the gradients.
        beta_2: memory of the mean of their squares.
        epsilon: added to the root of the corrected mean of squares.
        **kwargs: as in `keras.optimizers.Optimizer`: `global_clipnorm`, `use_ema`,
            `gradient_accumulation_steps`, ...

    Raises:
        ValueError: a beta outside [0, 1), a negative epsilon or decay.

    >>> optimizer = AdamW(1e-3, weight_decay=0.1, global_clipnorm=1.0)
    >>> weight = keras.Variable([1.0, 2.0], dtype="bfloat16")
    >>> optimizer.build([weight])
    >>> sorted({v.dtype for v in optimizer.variables[2:]})
    ['float32']
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "adamw",
        **kwargs: Any,
    ):
        for key, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= beta < 1:
                raise ValueError(f"{key} must be in [0, 1), not {beta!r}.")
        for key, value in (("epsilon", epsilon), ("weight_decay", weight_decay or 0)):
            if value < 0:
                raise ValueError(f"{key} must not be negative, but is {value!r}.")
        if isinstance(learning_rate, int):
            learning_rate = float(learning_rate)
        super().__init__(learning_rate, weight_decay=weight_decay or 0.0, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )

    def add_variable(self, shape, initializer="zeros", dtype=None, **kwargs):
        # Keras asks for the dtype of the weight; every slot passes here, with its layout.
        return super().add_variable(shape, initializer, "float32", **kwargs)

    def _backend_apply_gradients(self, grads, trainable_variables):
        # Dense, too: TensorFlow hands over the gradient of a lookup as slices.
        grads = [ops.cast(ops.convert_to_tensor(g), "float32") for g in grads]
        super()._backend_apply_gradients(grads, trainable_variables)

    def _apply_weight_decay(self, variables):
        """Decay is part of the update, in float32; a step before it would round twice."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        rate = ops.cast(learning_rate, "float32")
        step = ops.cast(self.iterations + 1, "float32")
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        root = ops.sqrt(square / _correction(self.beta_2, step)) + self.epsilon
        # A weight of Keras, not of TensorFlow: that is what excluded names are compared with.
        decay = self.weight_decay * self._use_weight_decay(self._trainable_variables[index])
        value = ops.cast(variable, "float32") * (1 - rate * decay)
        value = value - rate / _correction(self.beta_1, step) * (mean / root)
        self.assign(variable, ops.cast(value, variable.dtype))

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def _correction(beta, step):
    """`1 - beta**step`, which in float32 loses four digits at beta 0.999 when written so."""
    return -ops.expm1(step * math.log(beta)) if beta else 1.0
