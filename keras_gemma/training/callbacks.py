"""What watches a run: progress for people, checkpoints for the next start."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import keras

from keras_gemma.training import checkpoints


class Progress(keras.callbacks.Callback):
    """Calls `report(dict)` every `every` steps: step, steps, loss, tokens seen and per second."""

    def __init__(
        self, report: Callable[[dict], None], start: int, steps: int, tokens: int, every=20
    ):
        super().__init__()
        self.report, self.step, self.steps, self.tokens = report, start, steps, tokens
        self.every = every

    def on_train_begin(self, logs=None):
        self._first, self._seen = self.step, 0.0
        self._mark()

    def _mark(self):
        self._since, self._from = time.monotonic(), self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % self.every and self.step != self.steps:
            return
        made = self.step - self._from
        # Keras tells the mean since the start; the mean of the steps since the last report is
        # what shows where a run stands.
        total = math.log(float(logs["perplexity"])) * (self.step - self._first)
        self.report(
            {
                "step": self.step,
                "steps": self.steps,
                "loss": (total - self._seen) / made,
                "tokens": self.step * self.tokens,
                "tokens_per_second": made * self.tokens / (time.monotonic() - self._since),
            }
        )
        self._seen = total
        self._mark()


class Checkpoints(keras.callbacks.Callback):
    """Saves the run every `minutes`, and at its end."""

    def __init__(self, path: Path, start: int, minutes: float = 2.0):
        super().__init__()
        self.path, self.step, self.seconds = path, start, 60 * minutes

    def on_train_begin(self, logs=None):
        self._saved = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if time.monotonic() - self._saved > self.seconds:
            self._save()

    def on_train_end(self, logs=None):
        self._save()

    def _save(self):
        self._sync()
        checkpoints.save(self.model, self.step, self.path)
        self._saved = time.monotonic()

    def _sync(self):
        # While it runs, Keras on JAX holds the values apart from the variables.
        sync = getattr(self.model, "jax_state_sync", None)
        if sync is not None:
            sync()
