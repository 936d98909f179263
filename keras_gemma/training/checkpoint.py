"""The callback that makes of a `fit` a run: saved while it works, resumed to the very numbers."""

import math
import numbers
import re
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_gemma.models.fit_run import run_of
from keras_gemma.training import checkpoint_files as files
from keras_gemma.training import no_number, receipt, run_log, snapshot
from keras_gemma.training.data_identity import data_fingerprint, difference
from keras_gemma.training.interrupts import Interrupts
from keras_gemma.training.model_identity import is_new, model_identity, optimizer_settings
from keras_gemma.training.progress import Progress
from keras_gemma.training.run_lock import run_lock

_UNITS = {"second": 1, "minute": 60, "hour": 3600}


class Checkpoint(keras.callbacks.Callback):
    """Keeps a run of `fit` in a folder, so that it can be killed at any step and resumed.

    A resumed run ends with the very numbers of one that was never stopped, bit for bit on the same
    machine and versions: weights, optimizer, losses. `checkpoints/` in the folder holds the run's
    state, `log.jsonl` its losses and speed. What is not trained, the base under LoRA, is not written
    but known again by a fingerprint.

    Ctrl-C and SIGTERM let the step end and save it; a second one acts at once. A loss or weight that
    is no finite number ends the run, and leaves the batch in the folder; no checkpoint is written of
    such weights. With another optimizer's settings, a lower learning rate say, a run goes on from its
    newest checkpoint, and a warning says so.

    Args:
        folder: of the run, and of no other at the same time.
        every: between two checkpoints: steps as a number, or a time such as `"5 minutes"`. One is
            written at the end, too.
        keep: how many of the newest stay.
        best: the name of a number that Keras reports of an epoch, `"val_loss"` say: a checkpoint is
            written at the end of each, and the one where it is best stays.
        mode: whether `"min"` or `"max"` of it is best; `"auto"` knows accuracies, losses and the like by
            their names.
        resume: go on from the newest checkpoint, should there be one. The data go on in the middle
            of an epoch: texts are found by their place; streams and generators can't seek, so their
            batches are drawn up to there, and have to come in the same order. What other callbacks
            remember, `EarlyStopping` say, begins anew.
        log_every: steps between two lines of the log.
        report: is called with what the log gets.

    Raises (from `fit`):
        ValueError: the folder holds a run and `resume` is false; another run works in it; the run
            to resume had other data or another model; a loss or weight is no finite number.
        TypeError: the model is none of keras_gemma.
        NoSpaceError: the disk is full; the checkpoints before are whole.
    """

    def __init__(
        self,
        folder: str | Path,
        every: int | str = "5 minutes",
        keep: int = 3,
        best: str | None = None,
        *,
        mode: str = "auto",
        resume: bool = False,
        log_every: int = 20,
        report: Callable[[dict[str, Any]], Any] | None = None,
    ):
        super().__init__()
        self.folder, self.resume, self.best, self._report = Path(folder), resume, best, report
        self._steps, self._seconds = _interval(every)
        if keep < 1:
            raise ValueError(f"keep must be 1 or more, not {keep}.")
        self.files = files.CheckpointFiles(
            self.folder / "checkpoints", keep, (best, _sign(best, mode)) if best else None
        )
        self.progress = Progress(self._log, log_every)
        self.lock: Callable[[Path], Any] = run_lock  # for who holds the folder before `fit` begins

    def set_params(self, params):
        super().set_params(params)
        self.progress.set_params(params)

    def set_model(self, model):
        super().set_model(model)
        self.progress.set_model(model)

    def on_train_begin(self, logs=None):
        run = run_of(self.model, self)
        run.at_end.enter_context(self.lock(self.folder))
        newest = self.files.newest()
        if newest and not self.resume:
            raise ValueError(
                f"{self.folder} holds a run already, up to {newest.stem}. Resume it with "
                f"Checkpoint({str(self.folder)!r}, resume=True), or choose another folder."
            )
        if newest is None and self.files.paths():
            raise ValueError(
                f"{self.folder} holds a run already, and its checkpoints are damaged, all of them. "
                "Choose another folder."
            )
        self._interrupts = Interrupts()
        run.at_end.enter_context(self._interrupts.watched())
        run.at_end.callback(self.files.wait)
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._base = snapshot.frozen(self.model)
        self._identity, self._settings = model_identity(self.model), optimizer_settings(self.model)
        self._data = data_fingerprint(run.data, run.beside)
        self._data.setdefault("batches", self.params["steps"])
        self._restored, self._ended_epoch, self._knows_best = None, False, self.best is None
        self._train_logs, self._before_test = {}, None
        if newest:
            self._restore(newest)
        run_log.forget_after(self.folder, run.step)
        if not newest:
            weights = snapshot.take(self.model, self._base)
            seed = getattr(run.data, "seed", None)
            receipt.begin(self.folder, self._data, seed, snapshot.fingerprint(weights, self._base))
        self.progress.on_train_begin()
        if self._restored is not None:
            self.progress.set_state(self._restored.state["progress"])
        self._saved_at, self._saved_step = time.monotonic(), run.step

    def on_epoch_begin(self, epoch, logs=None):
        self.progress.on_epoch_begin(epoch)
        if self._restored is not None:
            self._restore_epoch()
        self._random_at_epoch, self._before_test = snapshot.random_states(), None

    def on_train_batch_end(self, batch, logs=None):
        run, self._train_logs = self.model.fit_run, logs
        if run.is_passing:
            if run.batch == self._restored.state["batch"]:
                snapshot.set_random_states(self._restored.state["random"])
                self._restored = None
            return
        if not math.isfinite(logs["loss"]):
            self._end_without_number(f"The loss is {logs['loss']}")
        self.progress.on_train_batch_end(batch, logs)
        if self._is_due():
            self._save(run.epoch, run.batch, logs)
        if self._interrupts.came is not None:
            self._end(logs)

    def on_test_begin(self, logs=None):
        # Validation counts in the same metrics.
        self._before_test = snapshot.metrics(self.model), snapshot.random_states()

    def on_test_batch_end(self, batch, logs=None):
        if self._interrupts.came is not None:  # nothing of the epoch's end has been done
            self._end(self._train_logs)

    def on_epoch_end(self, epoch, logs=None):
        self.progress.on_epoch_end(epoch, logs)
        if not self._knows_best:
            self._knows_best = True
            _look_for(self.best, logs)
        self._ended_epoch = bool(self.best) or self._interrupts.came is not None
        if self._ended_epoch:
            self._save_epoch(logs)
        if self._interrupts.came is not None:
            self._end(logs)

    def on_train_end(self, logs=None):
        run = self.model.fit_run
        self.progress.on_train_end(logs)
        if run.batch and not self._ended_epoch:
            self._save_epoch(logs)
        self.files.wait()
        if self._restored is not None:  # the run had ended
            logs = self._restored.state["logs"]
        weights = snapshot.fingerprint(snapshot.take(self.model, self._base), self._base)
        receipt.end(self.folder, run.step, weights, _floats(logs))

    def _is_due(self):
        step = self.model.fit_run.step
        if self._steps:
            return step - self._saved_step >= self._steps
        return time.monotonic() - self._saved_at >= self._seconds

    def _save_epoch(self, logs):
        """At the end of an epoch: where the next begins, or where this one was stopped."""
        run = self.model.fit_run
        self._save(*((run.epoch, run.batch) if run.is_cut else (run.epoch + 1, 0)), logs)

    def _save(self, epoch, batch, logs):
        run, random = self.model.fit_run, snapshot.random_states()
        values = snapshot.take(self.model, self._base)
        if not snapshot.are_finite(values):
            self._end_without_number("The weights are no finite numbers")
        if batch and self._before_test is not None:
            metrics, random = self._before_test
            values |= metrics
        state = {
            "step": run.step,
            "epoch": epoch,
            "batch": batch,
            "logs": _floats(logs),
            "progress": self.progress.state(),
            "base": self._base,
            "data": self._data,
            "model": self._identity,
            "optimizer": self._settings,
            "seed": getattr(run.data, "seed", None),
            "random": random,
            "random_at_epoch": self._random_at_epoch,
        }
        self.files.write(snapshot.Snapshot(values, state))
        self._saved_at, self._saved_step = time.monotonic(), run.step

    def _end(self, logs):
        run = self.model.fit_run
        if run.step > self._saved_step:
            self._save(run.epoch, run.batch, logs)
        self.files.wait()
        self._interrupts.act()

    def _restore(self, path):
        run, state = self.model.fit_run, files.read_state(path)
        told = snapshot.difference(self.model, files.shapes(path), state["base"])
        if state["model"] != self._identity:
            told = difference(state["model"], self._identity)
        if told:
            raise ValueError(
                f"{path} is of another model: {told}. Give the model that the run began with, or "
                "choose another folder."
            )
        if state["data"] != self._data:
            raise ValueError(
                f"{path} is of a run over other data: {difference(state['data'], self._data)}."
                " Give the data that the run began with, or choose another folder."
            )
        if not isinstance(run.data, keras.utils.PyDataset):
            _tell_of_stream(run.data, state)
        self._restored = files.read(path)
        self._base = state["base"]
        compiled_anew = is_new(self.model)
        for part in ("weights", "optimizer"):
            snapshot.put(self.model, self._restored.arrays, part)
        if compiled_anew and self._settings != state["optimizer"]:
            self._keep_settings(state["optimizer"])
        else:
            self._settings = state["optimizer"]
        if state["seed"] is not None:
            run.data.seed = state["seed"]
        logs = {n: value for n, value in state["logs"].items() if not n.startswith("val_")}
        run.go_on(state["epoch"], state["batch"], state["step"], logs)

    def _keep_settings(self, stored):
        """Those that the optimizer was compiled with here; a learning rate is among what is restored."""
        warnings.warn(
            f"The optimizer is compiled otherwise than when the run in {self.folder} began: "
            f"{difference(stored, self._settings)}. The run goes on with what is here.",
            stacklevel=2,
        )
        rate = self._settings["learning_rate"]
        if isinstance(rate, float) and rate != stored["learning_rate"]:
            self.model.optimizer.learning_rate = rate

    def _restore_epoch(self):
        state = self._restored.state
        if not state["batch"]:
            snapshot.set_random_states(state["random"])
            self._restored = None
            return
        # Keras has just set the metrics back; what shuffles as the epoch begins does it again.
        snapshot.put(self.model, self._restored.arrays, "metrics")
        snapshot.set_random_states(state["random_at_epoch"])

    def _log(self, record):
        run_log.append(self.folder, record)
        if self._report is not None:
            self._report(record)

    def _end_without_number(self, what):
        self.files.wait()
        last = next(iter(self.files.paths()), None)
        raise ValueError(no_number.told(what, self.model.fit_run, self.folder, last))


def _interval(every):
    """Steps and seconds between checkpoints; one of them is None."""
    if isinstance(every, numbers.Integral) and every > 0:
        return int(every), None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(second|minute|hour)s?", str(every))
    if not found:
        raise ValueError(
            f"every must be a number of steps or a time such as '5 minutes', not {every!r}."
        )
    return None, float(found[1]) * _UNITS[found[2]]


# Which way numbers get better, by parts of their names.
_BETTER = {
    "max": ("acc", "auc", "precision", "recall", "f1"),
    "min": ("loss", "perplexity", "error", "entropy", "mse", "mae"),
}


def _sign(name, mode):
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"mode must be auto, min or max, not {mode!r}.")
    if mode == "auto":
        mode = next((m for m, parts in _BETTER.items() if any(p in name for p in parts)), mode)
    if mode == "auto":
        raise ValueError(
            f"Whether a larger or a smaller {name} is best is not known. Say so: mode='max', or mode='min'."
        )
    return -1 if mode == "max" else 1


def _floats(logs):
    return {name: float(value) for name, value in (logs or {}).items()}


def _tell_of_stream(data, state):
    """Data that can't seek are drawn; an iterator that can't begin anew is gone after one epoch."""
    if isinstance(data, types.GeneratorType) and state["epoch"]:
        raise ValueError(
            f"The run is in epoch {state['epoch'] + 1} of a generator, which can't be begun anew: "
            "resume with a list, a file, a PyDataset or a tf.data.Dataset of the same batches."
        )
    warnings.warn(
        f"Data of type {type(data).__name__} can't seek: {state['batch']} batches of epoch "
        f"{state['epoch'] + 1} are drawn and left out. The numbers are those of an unbroken run only "
        "if they come in the same order.",
        stacklevel=2,
    )


def _look_for(name, logs):
    if name not in logs:
        warnings.warn(
            f"Of an epoch Keras reports {', '.join(logs)}, and no {name!r}: no checkpoint stays as "
            "the best until it does. Correct best=, or give fit validation_data=.",
            stacklevel=2,
        )
