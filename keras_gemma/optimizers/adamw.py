"""AdamW (arXiv 1711.05101) that trains weights of any dtype."""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gemma.optimizers import in_place
from keras_gemma.optimizers.base import Float32Optimizer

STATE_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable(package="keras_gemma")
class AdamW(Float32Optimizer):
    """PyTorch's AdamW, with an update in float32 whatever the weights are.

    The state of Keras's own Adam has the dtype of the weights: in bfloat16, `beta_2=0.999` rounds
    to 1 and the weights never move. Here everything is computed in float32, and only the new numbers
    are rounded: bfloat16 ones by chance, so that steps too small for them add up nevertheless.

    Args:
        learning_rate: a number, or a `keras.optimizers.schedules.LearningRateSchedule`.
        weight_decay: share of a weight taken off each step, times the learning rate.
        beta_1: memory of the mean of the gradients.
        beta_2: memory of the mean of their squares.
        epsilon: added to the root of the corrected mean of squares.
        state_dtype: `"float32"`, 8 bytes for each weight; or `"bfloat16"`, 4 bytes.
        **kwargs: as in `Float32Optimizer` (`schedule`, `warmup`, `stochastic_rounding`, `seed`) and
            `keras.optimizers.Optimizer`.

    Raises:
        ValueError: a beta outside [0, 1), a negative epsilon or decay, a learning rate that is
            negative or no finite number.

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
        *,
        state_dtype: str = "float32",
        name: str = "adamw",
        **kwargs: Any,
    ):
        for key, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= beta < 1:
                raise ValueError(f"{key} must be in [0, 1), not {beta!r}.")
        for key, value in (("epsilon", epsilon), ("weight_decay", weight_decay or 0)):
            if not value >= 0:
                raise ValueError(f"{key} must not be negative, but is {value!r}.")
        if state_dtype not in STATE_DTYPES:
            raise ValueError(
                f"state_dtype must be one of {', '.join(STATE_DTYPES)}, not {state_dtype!r}."
            )
        super().__init__(learning_rate, weight_decay=weight_decay or 0.0, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.state_dtype = state_dtype

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._slot_dtype = self.state_dtype
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        slots = [variable, self._momentums[index], self._velocities[index]]
        numbers = self._numbers(index, learning_rate)
        if in_place.adamw(self, *slots, gradient, self._gradient_scale, numbers):
            return

        def formula(places, weight, mean, square, gradient):
            old = weight, mean, square
            weight, mean, square = (ops.cast(x, "float32") for x in old)
            mean, square = numbers.moments(mean, square, self.scaled(gradient))
            new = numbers.weight(weight, mean, square), mean, square
            return [
                self.rounded(x, was.dtype, index, slot, places)
                for slot, (x, was) in enumerate(zip(new, old))
            ]

        in_place.replace(self, formula, slots, [gradient])

    def _numbers(self, index, learning_rate):
        return AdamWNumbers(
            rate=ops.cast(learning_rate, "float32"),
            step=ops.cast(self.iterations + 1, "float32"),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            decay=self.decay_of(index),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "state_dtype": self.state_dtype,
        }


class AdamWNumbers(NamedTuple):
    """What one update of a weight by AdamW takes beside its tensors, which are float32.

    Rate and step are float32 scalars, the step counted from 1.
    """

    rate: Any
    step: Any
    beta_1: float
    beta_2: float
    epsilon: float
    decay: float

    def moments(self, mean: Any, square: Any, gradient: Any) -> tuple[Any, Any]:
        """The new mean of gradients, and that of their squares."""
        mean = mean + (gradient - mean) * (1 - self.beta_1)
        return mean, square + (ops.square(gradient) - square) * (1 - self.beta_2)

    def weight(self, weight: Any, mean: Any, square: Any) -> Any:
        """The new weight, from the new means."""
        root = ops.sqrt(square / _correction(self.beta_2, self.step)) + self.epsilon
        weight = weight * (1 - self.rate * self.decay)
        return weight - self.rate / _correction(self.beta_1, self.step) * (mean / root)

    def uncorrected(self) -> tuple[Any, Any]:
        """Rate and epsilon with which means that are not corrected give the same weight."""
        root = ops.sqrt(_correction(self.beta_2, self.step))
        return self.rate * root / _correction(self.beta_1, self.step), self.epsilon * root

    def largest_ratio(self) -> float:
        """What no mean exceeds, divided by the root of its mean of squares (Cauchy and Schwarz)."""
        left = 1 - self.beta_1**2 / self.beta_2 if self.beta_2 else 0.0
        return (1 - self.beta_1) / math.sqrt((1 - self.beta_2) * left) if left > 0 else math.inf


def _correction(beta, step):
    """`1 - beta**step`, which in float32 loses four digits at beta 0.999 when written so."""
    return -ops.expm1(step * math.log(beta)) if beta else 1.0
