"""What all optimizers here share: float32, gradients weighed by tokens, clipping without copies."""

from typing import Any

import keras
from keras import ops

from keras_gemma.optimizers import in_place, schedules
from keras_gemma.optimizers.rounding import round_by_chance


class Float32Optimizer(keras.optimizers.Optimizer):
    """An optimizer of Keras with state and update in float32 whatever the weights are.

    With `gradient_accumulation_steps=n`, an update is made of the gradients of n micro-batches, each
    as heavy as `gradients_weigh` says (alike without). Schedules, the moving average of weights and
    `iterations` count updates, and a step that makes none costs none.

    Args:
        learning_rate: a number, or a `keras.optimizers.schedules.LearningRateSchedule`.
        schedule: `"cosine"`, `"linear"` or `"wsd"`, of which `learning_rate` is the peak: see
            `keras_gemma.optimizers.schedules`.
        warmup: how long the rate of such a schedule rises: a share of all updates, or their number.
        stochastic_rounding: whether bfloat16 numbers are rounded by chance, without a bias.
        seed: of that chance.
        **kwargs: as in `keras.optimizers.Optimizer`: `global_clipnorm`, `use_ema`,
            `gradient_accumulation_steps`, ...

    Raises:
        ValueError: a learning rate that is negative or no finite number.
    """

    def __init__(
        self,
        learning_rate: Any,
        *,
        schedule: str | None = None,
        warmup: float = 0,
        stochastic_rounding: bool = True,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(schedules.get(learning_rate, schedule, warmup), **kwargs)
        self.stochastic_rounding, self.seed = stochastic_rounding, seed
        self.is_stateless = False
        self._slot_dtype = "float32"
        self._micro_batch_weight = 1.0
        self._gradient_scale = None  # what `update_step` multiplies gradients by, if by anything

    def build(self, variables):
        if self.built:
            return
        if self.gradient_accumulation_steps:
            self._sum_of_weights = self.add_variable((), name="sum_of_weights")
        super().build(variables)

    def add_variable(self, shape, initializer="zeros", dtype=None, **kwargs):
        # Keras asks for the dtype of the weight; every slot passes here, with its layout.
        if "int" not in (dtype or ""):
            dtype = self._slot_dtype
        return super().add_variable(shape, initializer, dtype, **kwargs)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        self.is_stateless = True
        try:
            return super().stateless_apply(optimizer_variables, grads, trainable_variables)
        finally:
            self.is_stateless = False

    def _backend_apply_gradients(self, grads, trainable_variables):
        # Dense: TensorFlow hands over the gradient of a lookup as slices.
        grads = [ops.convert_to_tensor(g) for g in grads]
        if not self.gradient_accumulation_steps:
            self._update(grads, trainable_variables)
            return
        sums = [
            self._accumulated_gradients[self._get_variable_index(v)] for v in trainable_variables
        ]
        place = self._iterations % self.gradient_accumulation_steps
        weight = ops.cast(self._micro_batch_weight, "float32")
        for sum_, gradient in zip([*sums, self._sum_of_weights], [*grads, ops.ones(())]):
            in_place.accumulate(self, sum_, gradient, weight, place == 0)
        in_place.only_if(
            place == self.gradient_accumulation_steps - 1,
            lambda: self._update_by_sums(sums, trainable_variables),
            [*trainable_variables, *self.variables],
        )

    def _update_by_sums(self, sums, trainable_variables):
        whole = ops.convert_to_tensor(self._sum_of_weights)
        share = ops.where(whole > 0, 1 / ops.where(whole > 0, whole, 1.0), 0.0)
        self._update([ops.convert_to_tensor(s) for s in sums], trainable_variables, share)

    def _update(self, gradients, variables, scale=None):
        if (self.global_clipnorm or 0) > 0:  # as in Keras, what is no norm clips nothing
            norm = ops.sqrt(sum(in_place.sum_of_squares(g) for g in gradients))
            norm = norm if scale is None else norm * scale
            # As Keras's, NaN for all where a single one is not finite.
            clip = self.global_clipnorm / ops.maximum(norm, self.global_clipnorm) + (norm - norm)
            scale = clip if scale is None else clip * scale
        elif self.clipnorm or self.clipvalue:  # one by one
            whole = 1.0 if scale is None else scale
            gradients = (self._clip_gradients([_float32(g) * whole])[0] for g in gradients)
            scale = None
        self._gradient_scale = scale
        self._backend_update_step(gradients, variables, self.learning_rate)
        self._gradient_scale = None
        if self.use_ema:
            self._update_moving_average(variables)

    def _update_moving_average(self, variables):
        self._update_model_variables_moving_average(self._trainable_variables)
        if every := self.ema_overwrite_frequency:
            in_place.only_if(
                (self.iterations + 1) % every == 0,
                lambda: self._overwrite_model_variables_with_average_value(
                    self._trainable_variables
                ),
                [*self._trainable_variables, *self.variables],
            )

    def _update_model_variables_moving_average(self, trainable_variables):
        memory = ops.where(self.iterations > 0, self.ema_momentum, 0.0)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average):
            if average is not None:
                in_place.replace(self, _towards(1 - memory), [average], [variable])

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        for variable, average in zip(trainable_variables, self._model_variables_moving_average):
            if average is not None:
                variable.assign(ops.convert_to_tensor(average))

    def _apply_weight_decay(self, variables):
        """Decay is part of the update, in float32; a step before it would round twice."""

    def _get_current_learning_rate(self):
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)  # Keras counts micro-batches
        return super()._get_current_learning_rate()

    # --- for `update_step` ---

    def scaled(self, gradient: Any) -> Any:
        """A gradient, or a piece of one, as the update takes it: float32, weighed and clipped."""
        gradient = _float32(gradient)
        return gradient if self._gradient_scale is None else gradient * self._gradient_scale

    def decay_of(self, index: int) -> float:
        """The decay of the variable of that index, 0 where `exclude_from_weight_decay` says so."""
        # A weight of Keras, not of TensorFlow: that is what excluded names are compared with.
        excluded = not self._use_weight_decay(self._trainable_variables[index])
        return 0.0 if excluded else self.weight_decay or 0.0

    def rounded(self, x: Any, dtype: Any, index: int, slot: int, places: Any) -> Any:
        """A float32 tensor in the dtype of what it replaces; `slot` numbers what a weight has."""
        if not (self.stochastic_rounding and in_place.is_bfloat16(dtype)):
            return ops.cast(x, dtype)
        return round_by_chance(x, self.noise_seed(index, slot), self.iterations, places())

    def noise_seed(self, index: int, slot: int) -> int:
        return (self.seed + 0x9E3779B1 * (4 * index + slot)) % 2**31

    def get_config(self):
        rounding = {"stochastic_rounding": self.stochastic_rounding, "seed": self.seed}
        return {**super().get_config(), **rounding}


def _float32(x):
    return ops.cast(x, "float32")


def _towards(share):
    return lambda _, average, x: (average + share * (_float32(x) - average),)
