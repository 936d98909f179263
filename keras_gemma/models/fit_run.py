"""A run of `fit` as callbacks see it: what it runs over, where it stands, what to undo at its end."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_gemma.arrays import own
from keras_gemma.models.labelled_texts import LabelledTexts
from keras_gemma.models.text_batches import TextBatches
from keras_gemma.optimizers import set_total_steps


class FitRun(keras.callbacks.Callback):
    """What `model.fit_run` is while `fit` works. It is told before all other callbacks.

    Attributes:
        data: what `fit` was given, as batches where it was text.
        beside: labels and weights, where they were given apart.
        epoch: the one that runs.
        batch: batches of that epoch that are over.
        step: batches of the whole run that are over, of epochs before `initial_epoch`, too.
        made: batches of the last execution: several under `steps_per_execution`.
        is_cut: whether the epoch that ends was stopped before its last batch.
        at_end: an `ExitStack` that closes when `fit` ends, by an error, too; of those Keras tells
            no callback.
    """

    def __init__(self, data: Any, beside: Sequence[Any] = (), first_epoch: int = 0):
        super().__init__()
        self.data, self.beside, self.at_end = data, beside, contextlib.ExitStack()
        self.epoch, self.batch, self.step, self.made = first_epoch, 0, 0, 0
        self.is_cut = False
        self._start, self._logs, self._has_begun = (0, 0), {}, False

    @property
    def is_passing(self) -> bool:
        """Whether the batch at hand was trained on before the run was resumed."""
        return self._start[1] > 0 and (self.epoch, self.batch) <= self._start

    @property
    def weight(self) -> float:
        """What the batches of the last execution weigh in the loss that Keras reports of an epoch."""
        if isinstance(self.data, TextBatches) and getattr(self.model, "reports_tokens", False):
            return sum(self.data.weights[at] for at in range(self.batch - self.made, self.batch))
        return self.made

    def go_on(self, epoch: int, batch: int, step: int, logs: Mapping[str, float]) -> None:
        """From `on_train_begin`: let `fit` go on after so many batches of that epoch.

        Data that can't seek is drawn up to there and not trained on; `logs` is what callbacks are
        told of those batches.
        """
        self._start, self._logs, self.step = (epoch, batch), dict(logs), step
        self._tell_length()
        self.model._initial_epoch = epoch
        if isinstance(self.data, TextBatches):
            self.data.start = self._start

    def on_train_begin(self, logs=None):
        own(self.model.variables)
        self.step = self.epoch * (self.params["steps"] or 0)

    def _tell_length(self):
        """A schedule of learning rates needs to know when the run ends; the step has it compiled in."""
        self._has_begun = True
        steps = self.params["steps"]  # None, if the data does not tell
        total = steps and steps * self.params["epochs"]
        if total and set_total_steps(self.model.optimizer, total, self.step):
            self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.batch, self.is_cut = epoch, 0, False
        if not self._has_begun:
            # Not before: Keras's own callbacks restore a run's optimizer and epoch as training begins.
            self.step = epoch * (self.params["steps"] or 0)
            self._tell_length()
        if isinstance(self.data, (TextBatches, LabelledTexts)):
            self.data.epoch = epoch
        if epoch == self._start[0] and self._start[1]:
            self._pass_over(self._start[1])

    def on_train_batch_end(self, batch, logs=None):
        self.made, self.batch = batch + 1 - self.batch, batch + 1
        if not self.is_passing:
            self.step += self.made

    def on_epoch_end(self, epoch, logs=None):
        # Told first, so that no other callback has asked for an end because the epoch is over.
        self.is_cut = self.model.stop_training and self.batch != self.params["steps"]

    def _pass_over(self, batches):
        """Let the first steps of this epoch draw their batches, and leave the model as it is."""
        model, train = self.model, self.model.train_function

        def step(*arguments):
            *state, source = arguments
            made = min(model.steps_per_execution, batches - self.batch)
            if isinstance(source, Iterator):  # else Keras has drawn what it passes
                for _ in range(made):
                    next(source)
            if self.batch + made == batches:
                model.train_function = train
            return (self._logs, *state) if state else self._logs

        model.train_function = step


def run_of(model: Any, callback: Any) -> FitRun:
    """The run that a callback watches.

    Raises:
        TypeError: the model's `fit` is Keras's own, and tells of no run.
    """
    run = getattr(model, "fit_run", None)
    if run is None:
        raise TypeError(
            f"{type(callback).__name__} watches `fit` of the models of keras_gemma, and this "
            f"{type(model).__name__} is none of them. Fit GemmaCausalLM, say, with it, and take a "
            "callback of Keras here, such as keras.callbacks.BackupAndRestore."
        )
    return run


@contextlib.contextmanager
def fit_run(model: keras.Model, data: Any, keywords: dict, *beside: Any) -> Iterator[None]:
    """Around `keras.Model.fit(data, *beside, **keywords)`: gives its callbacks `model.fit_run`.

    Our own batches know their order and where an epoch ends, so Keras is kept from both.
    """
    if isinstance(data, TextBatches):
        keywords["shuffle"] = False
        data.steps = keywords.pop("steps_per_epoch", None) or data.steps
    run = model.fit_run = FitRun(
        data, [x for x in beside if x is not None], keywords.get("initial_epoch") or 0
    )
    keywords["callbacks"] = [run, *keras.tree.flatten(keywords.get("callbacks") or [])]
    try:
        with run.at_end:
            yield
    finally:
        model.fit_run = model._initial_epoch = None
