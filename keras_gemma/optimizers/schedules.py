"""Learning rates over a run whose length `fit` knows."""

import math
import numbers
from typing import Any

import keras
from keras import ops

_register = keras.saving.register_keras_serializable(package="keras_gemma")


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises to a peak, and falls from it to the end of the run.

    The n-th of `warmup` updates takes `n / (warmup + 1)` of the peak, so that none is lost to a rate
    of zero. Steps are updates: several micro-batches where gradients are accumulated.

    `fit` fills in the length of the run. A second `fit` of the same model is a run of its own, which
    rises and falls anew; one that goes on from a checkpoint keeps to the schedule of the first.

    Args:
        peak: the highest rate.
        warmup: how long it rises: a share of all updates (< 1), or their number.
        final: what is left at the end, a share of the peak.
        total_steps: how many updates there are, counted from the optimizer's first, whatever `fit`
            knows; or `None`.
        run: `(first, length)` of the run that `fit` filled in, in a saved configuration.

    Raises:
        ValueError: a peak that is negative or no finite number, a share outside [0, 1], a warm-up
            as long as the run; on use, a length that nobody told.
    """

    def __init__(
        self,
        peak: float,
        warmup: float = 0,
        final: float = 0.0,
        total_steps: int | None = None,
        run: Any = None,
    ):
        self.peak = checked_rate(peak, "peak")
        self.warmup, self.final = warmup, _share(final, "final")
        if not (0 <= warmup < 1 or warmup >= 1 and float(warmup).is_integer()):
            raise ValueError(
                f"warmup must be a share of the run from 0 to 1, or a number of steps, not {warmup!r}."
            )
        self.total_steps = total_steps
        self.run = None if run is None else tuple(run)
        if total_steps is not None:
            self.set_run(0, total_steps)

    def set_run(self, first: int, length: int) -> None:
        """The update at which the run starts, and how many it has."""
        if length < 1 or self.warmup >= 1 and self.warmup >= length:
            raise ValueError(
                f"A run of {length} updates is too short for warmup={self.warmup!r}. Give a share, "
                "as warmup=0.03, or train longer."
            )
        self.run = first, length

    def __call__(self, step):
        if self.run is None:
            raise ValueError(
                f"{type(self).__name__} does not know how many steps there will be: fit can't tell "
                "the length of this data. Pass fit steps_per_epoch=, or the schedule total_steps=."
            )
        first, length = self.run
        warmup = self.warmup if self.warmup >= 1 else math.ceil(self.warmup * length)
        step = ops.cast(step, "float32") - first
        rise = (step + 1) / (warmup + 1)
        passed = ops.clip((step - warmup) / (length - warmup), 0.0, 1.0)
        share = self.final + (1 - self.final) * self.left(passed, warmup / length)
        return self.peak * ops.where(step < warmup, rise, share)

    def left(self, passed: Any, warmup: float) -> Any:
        """How much of the way from final to peak is left, 1 to 0.

        Args:
            passed: float32, the share of the time after the warm-up.
            warmup: the warm-up as a share of all.
        """
        raise NotImplementedError

    def get_config(self):
        names = ("peak", "warmup", "final", "total_steps", "run")
        return {name: getattr(self, name) for name in names}


@_register
class Cosine(Schedule):
    """Half a wave from the peak to the end (arXiv 1608.03983).

    >>> schedule = Cosine(1.0, warmup=0.25, total_steps=8)
    >>> [round(float(schedule(step)), 2) for step in range(8)]
    [0.33, 0.67, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]
    """

    def left(self, passed, warmup):
        return 0.5 + 0.5 * ops.cos(math.pi * passed)


@_register
class Linear(Schedule):
    """A straight line from the peak to the end.

    >>> schedule = Linear(1.0, total_steps=4)
    >>> [round(float(schedule(step)), 2) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """

    def left(self, passed, warmup):
        return 1 - passed


@_register
class WarmupStableDecay(Schedule):
    """The peak for most of the run, then a straight line to the end (arXiv 2404.06395).

    A run may be prolonged from where its decline begins; a tenth of it is enough to decline.

    Args:
        decay: the share of the run in which the rate falls.

    >>> schedule = WarmupStableDecay(1.0, decay=0.5, total_steps=8)
    >>> [round(float(schedule(step)), 2) for step in range(8)]
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    def __init__(self, peak: float, warmup: float = 0, *, decay: float = 0.1, **kwargs: Any):
        self.decay = _share(decay, "decay")
        super().__init__(peak, warmup, **kwargs)

    def left(self, passed, warmup):
        decay = min(self.decay / (1 - warmup), 1.0)  # of the time after the warm-up
        return ops.minimum(1.0, (1 - passed) / decay) if decay else ops.ones_like(passed)

    def get_config(self):
        return {**super().get_config(), "decay": self.decay}


NAMES = {"cosine": Cosine, "linear": Linear, "wsd": WarmupStableDecay}


def get(rate: Any, schedule: str | None, warmup: float) -> Any:
    """The learning rate an optimizer of Keras takes: a float, or a schedule."""
    if schedule is None:
        if warmup:
            raise ValueError(
                f"warmup={warmup!r} belongs to a schedule. Add schedule=, one of {', '.join(NAMES)}."
            )
        return rate if callable(rate) else checked_rate(rate, "learning_rate")
    if schedule not in NAMES:
        raise ValueError(f"schedule must be one of {', '.join(NAMES)}, not {schedule!r}.")
    return NAMES[schedule](checked_rate(rate, "learning_rate"), warmup)


def checked_rate(rate: Any, name: str) -> float:
    """A learning rate that is a number one can train with."""
    if not isinstance(rate, numbers.Real) or not 0 <= rate < math.inf:
        raise ValueError(f"{name} must be a number from 0 on, as 1e-4, not {rate!r}.")
    return float(rate)


def _share(value, name):
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share from 0 to 1, not {value!r}.")
    return float(value)
