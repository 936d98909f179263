"""What an optimizer is told by `fit`: how much a batch weighs, and how many there will be."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from keras_gemma.optimizers.base import Float32Optimizer
from keras_gemma.optimizers.schedules import Schedule
from keras_gemma.optimizers.weighed_sums import add_sum_of_weights, can_weigh, weighed


@contextlib.contextmanager
def gradients_weigh(optimizer: Any, weight: Any) -> Iterator[None]:
    """Around a train step: how much its gradients count among those that are accumulated.

    A gradient of a mean over tokens weighs their number (the sum of their weights), so that the
    update is that of one large batch, however it is cut. A micro-batch of weight 0 adds nothing.

    Args:
        optimizer: one of `keras_gemma.optimizers`, one of Keras that a `GemmaCausalLM` was compiled with, or a
            `LossScaleOptimizer` around one; with any other, micro-batches count alike.
        weight: a scalar tensor, also of a program that is being traced.

    >>> import keras
    >>> from keras_gemma.optimizers import AdamW
    >>> optimizer = AdamW(gradient_accumulation_steps=2)
    >>> with gradients_weigh(optimizer, keras.ops.convert_to_tensor(12.0)):
    ...     pass  # model.train_step(data)
    """
    inner = _unwrapped(optimizer)
    if not isinstance(inner, Float32Optimizer):
        with weighed(inner, weight) if can_weigh(inner) else contextlib.nullcontext():
            yield
        return
    before, inner._micro_batch_weight = inner._micro_batch_weight, weight
    try:
        yield
    finally:
        inner._micro_batch_weight = before


def expect_weights(optimizer: Any) -> None:
    """Before training: that gradients will weigh something, in whatever optimizer accumulates them, if any."""
    inner = _unwrapped(optimizer)
    if inner is not None and not isinstance(inner, Float32Optimizer):
        add_sum_of_weights(inner)


def set_total_steps(optimizer: Any, total: int, done: int | None = None) -> bool:
    """Tell the schedule of an optimizer how long the run is; true if that is news to it.

    Warns of an optimizer that would gather gradients until after the run's end.

    A compiled step has the length in it, and must be made anew then. Nothing happens to an optimizer
    whose learning rate needs no length, or was given `total_steps`.

    Args:
        optimizer: any of Keras; or a `LossScaleOptimizer` around one.
        total: steps of the whole run, each micro-batch counted.
        done: how many of them were made before. `None` guesses: a run of the same length that isn't
            at its end goes on, and so does one whose state was loaded; any other starts now.

    >>> from keras_gemma.optimizers import AdamW
    >>> optimizer = AdamW(1e-3, schedule="linear")
    >>> set_total_steps(optimizer, 100), set_total_steps(optimizer, 100)
    (True, False)
    """
    optimizer = _unwrapped(optimizer)
    if (optimizer.gradient_accumulation_steps or 1) > total:
        warnings.warn(
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps} makes an update of "
            f"so many batches, and this run has {total}: no weight will change. Lower it, make the "
            "batches smaller, or train for more epochs.",
            stacklevel=2,
        )
    schedule = optimizer._learning_rate
    if not isinstance(schedule, Schedule) or schedule.total_steps is not None:
        return False
    # Optimizers of Keras ask a schedule at each micro-batch.
    counts_updates = isinstance(optimizer, Float32Optimizer)
    micro = counts_updates and optimizer.gradient_accumulation_steps or 1
    now = int(optimizer.iterations if counts_updates else optimizer._iterations)
    length = max(1, total // micro)
    first, known = schedule.run or (0, length)
    if done is not None:
        first = now - done // micro
    elif known != length or not first <= now < first + length:
        first = now
    before = schedule.run
    schedule.set_run(first, length)
    return schedule.run != before


def _unwrapped(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)
