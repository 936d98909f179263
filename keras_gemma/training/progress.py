"""How a run goes: loss, speed, share of what the machine can do, memory, time left."""

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_gemma import device_memory
from keras_gemma.models.fit_run import run_of
from keras_gemma.models.text_batches import TextBatches
from keras_gemma.training.flops import product_rate, training_flops


class Progress(keras.callbacks.Callback):
    """Calls `report(dict)` every `every` steps, at the end of each epoch and of the run.

    The dict has `step`, `steps` (`None` if the data doesn't say), `epoch`, `loss` and `perplexity`
    (of the steps since the report before), `learning_rate`, `memory` (bytes, of the device where it
    tells, else of the process), `seconds`, `seconds_left`; and where the data are batches of ours
    `tokens`, `tokens_per_second`, `flops_share`: operations that the model needs, of those that
    this backend does in products of matrices, probed when the run starts, which `peak_flops` tells.
    At the end of an epoch it also has what Keras reports of it, `val_loss` say.
    """

    def __init__(self, report: Callable[[dict[str, Any]], Any], every: int = 20):
        super().__init__()
        self.report, self.every = report, every
        self._reset(0)

    def _reset(self, step):
        self._sum = self._weight = 0.0  # since the last report
        self._epoch_sum = self._epoch_weight = 0.0  # since the epoch began
        self._reported = step

    def state(self) -> list:
        """What a resumed run must know to report the very numbers of an unbroken one."""
        since = self._sum, self._weight, self._epoch_sum, self._epoch_weight
        return [*since, self._reported]

    def set_state(self, state: list) -> None:
        """Go on from what `state` gave."""
        *since, self._reported = state
        self._sum, self._weight, self._epoch_sum, self._epoch_weight = since

    @property
    def tokens_seen(self) -> int:
        """Places that the run was trained on; 0 where the data don't tell."""
        rows, length = self._batch or (0, 0)
        return self._done * rows * length

    def on_train_begin(self, logs=None):
        run = run_of(self.model, self)
        data = run.data
        self._batch = data.shape if isinstance(data, TextBatches) else None
        self._peak = product_rate(self.model.compute_dtype) if self._batch else None
        self._start = self._since = time.monotonic()
        self._first = self._from = self._done = run.step
        self._reset(run.step)

    def on_epoch_begin(self, epoch, logs=None):
        if not self.model.fit_run.is_passing:
            self._epoch_sum = self._epoch_weight = 0.0

    def on_train_batch_end(self, batch, logs=None):
        run = self.model.fit_run
        if run.is_passing:
            return
        # Keras tells the mean since the epoch began; what shows where a run stands is that of the
        # steps since the last report.
        self._done = run.step
        self._weight += run.weight
        self._epoch_weight += run.weight
        total = logs["loss"] * self._epoch_weight
        self._sum, self._epoch_sum = self._sum + total - self._epoch_sum, total
        if run.step % self.every == 0 or run.step == self._steps():
            self.report(self._record())

    def on_epoch_end(self, epoch, logs=None):
        run = self.model.fit_run
        extra = {name: value for name, value in (logs or {}).items() if name.startswith("val_")}
        if extra:
            self.report({"step": run.step, "steps": self._steps(), "epoch": epoch + 1, **extra})

    def on_train_end(self, logs=None):
        # Steps that no report was made of, as the data did not tell which would be the last.
        if self.model.fit_run.step > max(self._reported, self._first):
            self.report(self._record())

    def _steps(self):
        per_epoch, epochs = self.params.get("steps"), self.params["epochs"]
        return per_epoch * epochs if per_epoch else None

    def _record(self):
        run, now = self.model.fit_run, time.monotonic()
        made, seconds = run.step - self._from, now - self._since
        loss = self._sum / max(self._weight, 1e-9)
        record = {
            "step": run.step,
            "steps": self._steps(),
            "epoch": run.epoch + 1,
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "learning_rate": float(np.asarray(self.model.optimizer.learning_rate)),
            "memory": device_memory.used(),
            "seconds": round(now - self._start, 3),
        }
        if record["steps"]:
            each = (now - self._start) / (run.step - self._first)
            record["seconds_left"] = round(each * (record["steps"] - run.step), 3)
        if self._batch:
            rows, length = self._batch
            flops = rows * training_flops(self.model, length) * made
            record |= {
                "tokens": self.tokens_seen,
                "tokens_per_second": made * rows * length / seconds,
                "flops_share": flops / seconds / self._peak,
                "peak_flops": self._peak,
            }
        self._sum = self._weight = 0.0
        self._reported, self._from, self._since = run.step, run.step, now
        return record
