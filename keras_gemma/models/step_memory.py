"""Memory for the steps of `fit`: a warning where it will be too small, an explanation where it was."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from keras_gemma import device_memory
from keras_gemma.models.fit_data import is_tf_dataset
from keras_gemma.models.fits_in import Fit, fits_in
from keras_gemma.models.kept_values import has_values
from keras_gemma.models.labelled_texts import LabelledTexts
from keras_gemma.models.text_batches import TextBatches, features
from keras_gemma.out_of_memory import explained
from keras_gemma.presets.sizes import megabytes

_SHORTEST = 64  # tokens of a row that is still of use


@contextlib.contextmanager
def memory_for_steps(model: Any, data: Any, batch_size: int | None) -> Iterator[None]:
    """Around `fit` on what Keras is given; `batch_size` is that of arrays.

    Where memory is the machine's own, a warning comes before the first step if by estimate that
    doesn't fit: the system may end such a process without a word.

    Raises:
        OutOfMemoryError: the backend found no room.
    """
    step = StepMemory(model, *_shape(data, batch_size), getattr(data, "group", 1))
    if device_memory.is_hosts() and step.is_too_large:
        warnings.warn(f"{step} The system may end this process.", stacklevel=4)

    def explanation():
        lost = (
            "" if has_values(model) else " The weights are lost with the step: load the model anew."
        )
        return f"Memory ran out in fit. {step}{lost}"

    with explained(explanation):
        yield


class StepMemory:
    """What a step of `fit` needs, and what is free; as a text, for people.

    Args:
        model: as it will be trained.
        rows: of a batch; 0 if nobody knows.
        length: tokens of a row.
        group: rows that `batch_size` counts as one.

    Attributes:
        needed: bytes beside what is there already, weights say, by estimate; or `None`.
        free: bytes; or `None`, where nothing tells.
    """

    def __init__(self, model: Any, rows: int, length: int, group: int = 1):
        self._model, self._rows, self._length, self._group = model, rows, length, group
        self.free, self.needed, self._there = device_memory.free(), None, 0
        with contextlib.suppress(Exception):  # of a user's optimizer, say: no reason not to train
            fit = self._fit(rows, length)
            self._there = fit.weights + (fit.optimizer if model.optimizer.built else 0)
            self.needed = fit.total - self._there

    @property
    def is_too_large(self) -> bool:
        """Whether by estimate it needs more than is free."""
        return None not in (self.needed, self.free) and self.needed > self.free

    def __str__(self):
        free = [] if self.free is None else [f"{megabytes(max(self.free, 0))} are free."]
        if self.needed is None:
            return " ".join([*free, "Lower batch_size, or compile(remat=True)."])
        needed = (
            f"A step of {self._rows:,} x {self._length:,} tokens takes {megabytes(self.needed)} beside "
            f"the weights, by estimate."
        )
        return " ".join([needed, *free, self.smallest_change])

    @property
    def smallest_change(self) -> str:
        """What by estimate makes it fit, the cheapest that does."""
        if not self.is_too_large:
            return f"Something else may take memory. Try batch_size={max(1, self._rows // self._group // 2)}."
        for words, remat, length in self._changes():
            rows = min(self._largest(remat, length), self._rows)
            if rows >= self._group:
                words += [] if rows == self._rows else [f"batch_size={rows // self._group}"]
                return f"It fits with {' and '.join(words)}."
        if all(variable.trainable for variable in self._model.backbone.variables):
            return "No batch fits: backbone.enable_lora(rank=8) before compile takes far less."
        return 'No batch fits: take a smaller model, or quantize("int8") before enable_lora.'

    def _changes(self):
        """`(words, remat, tokens of a row)`, each dearer than the one before."""
        remat, length, words = self._model.remat, self._length, []
        yield [], remat, length
        if not remat:
            words = ["compile(remat=True)"]
            yield words, True, length
        while (length := length // 2) >= _SHORTEST:
            yield [*words, f"rows of {length:,} tokens"], True, length

    def _largest(self, remat, length):
        as_it_is = self._model.remat
        self._model._set_remat(remat)
        try:
            return self._fit(1, length).largest_batch
        finally:
            self._model._set_remat(as_it_is)

    def _fit(self, rows, length) -> Fit:
        memory = max(1, (self.free or 0) + self._there)
        return fits_in(self._model, memory, batch_size=rows, sequence_length=length)


def _shape(data, batch_size):
    """Rows of a batch, and their tokens; zeros where nothing tells without drawing from the data."""
    if isinstance(data, (TextBatches, LabelledTexts)):
        return data.shape
    if is_tf_dataset(data):
        data, batch_size = features(data.element_spec), None
    elif isinstance(data, keras.utils.PyDataset):
        return 0, 0
    else:
        batch_size = batch_size or 32  # as Keras cuts arrays
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(data) if hasattr(leaf, "shape")]
    if not shapes or len(shapes[0]) != 2 or None in shapes[0]:
        return 0, 0
    rows, length = shapes[0]
    return min(rows, batch_size or rows), length
