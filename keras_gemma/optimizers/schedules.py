"""Learning rates that change from step to step."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_gemma")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rise in a straight line to `peak`, then fall along half a cosine to `floor`.

    Args:
        peak: highest learning rate, reached with the last step of the warm-up.
        warmup_steps: steps of the rise; 0 for none. The first one is not idle: its rate is
            `peak / warmup_steps`.
        total_steps: steps of both together; later ones stay at `floor`.
        floor: lowest learning rate of the fall.

    Raises:
        ValueError: fewer steps in all than in the warm-up, or rates out of order.

    >>> schedule = WarmupCosine(1.0, warmup_steps=2, total_steps=6, floor=0.1)
    >>> [round(float(schedule(step)), 3) for step in range(8)]
    [0.5, 1.0, 1.0, 0.868, 0.55, 0.232, 0.1, 0.1]
    """

    def __init__(
        self,
        peak: float,
        warmup_steps: int,
        total_steps: int,
        floor: float = 0.0,
        name: str = "warmup_cosine",
    ):
        super().__init__()
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"warmup_steps={warmup_steps} must be 0 or more and less than "
                f"total_steps={total_steps}."
            )
        if not 0 <= floor <= peak:
            raise ValueError(f"floor={floor} must lie between 0 and peak={peak}.")
        self.peak, self.floor, self.name = peak, floor, name
        self.warmup_steps, self.total_steps = warmup_steps, total_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rise = self.peak * (step + 1) / max(self.warmup_steps, 1)
        fallen = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        cosine = ops.cos(math.pi * ops.clip(fallen, 0.0, 1.0))
        fall = self.floor + (self.peak - self.floor) * 0.5 * (1 + cosine)
        return ops.where(step < self.warmup_steps, rise, fall)

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "floor": self.floor,
            "name": self.name,
        }
