"""Weights that outlive a step that could not be made."""

import contextlib
import math
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def keeping_values(model: keras.Model, keywords: dict) -> Iterator[None]:
    """Around `fit`, `evaluate` or `predict` with these keywords: afterwards each variable has a value.

    On JAX, Keras takes the values before the first step and gives back what that returns: where the data
    don't fit the model, nothing, and it would have no weights any more.
    """
    callbacks = keywords.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):  # of a `fit` that keeps them already
        yield
        return
    keeper = _Keeper()
    keywords["callbacks"] = [keeper, *keras.tree.flatten(callbacks or [])]
    try:
        yield
    finally:
        keeper.give_back()


class _Keeper(keras.callbacks.Callback):
    """Holds what a step is given: nothing more once it ran, for then the backend has used that up."""

    def __init__(self):
        super().__init__()
        self.held, self.has_run = [], False

    def on_train_begin(self, logs=None):
        model = self.model
        variables = [*model.variables, *model.metrics_variables]
        if model.optimizer is not None:
            variables += model.optimizer.variables
        self.held = [(variable, variable.value) for variable in variables]

    def on_test_begin(self, logs=None):
        self.on_train_begin()

    def on_predict_begin(self, logs=None):
        self.on_train_begin()

    def on_train_batch_end(self, batch, logs=None):
        if not self.has_run:
            _wait_for(logs)
            self.has_run = True

    def on_epoch_end(self, epoch, logs=None):
        _wait_for(logs)

    def give_back(self):
        """To variables that have none, the values that are still there."""
        for variable, value in self.held:
            if variable._value is None and not value.is_deleted():
                variable.assign(value)


def has_values(model: keras.Model) -> bool:
    """Whether its weights are there; on JAX they are gone with a step that failed while it ran."""
    try:
        smallest = min(model.weights, key=lambda variable: math.prod(variable.shape))
        _wait_for(smallest.value)
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return False
    return True


def _wait_for(values):
    """Computations go on while Python does; what becomes of one shows when somebody asks for a number."""
    for value in filter(keras.ops.is_tensor, keras.tree.flatten(values)):
        float(keras.ops.sum(keras.ops.stop_gradient(value)))
