"""What models have in common that read a text whole: one output a text, not one a token."""

import functools
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from keras_gemma.conversion.keras_hub.h5_file import H5Tensors
from keras_gemma.conversion.keras_hub.h5_writer import write_file
from keras_gemma.conversion.stream import check, compare, load, writables
from keras_gemma.conversion.weight_map import Rule, entries
from keras_gemma.data.records import without_pandas
from keras_gemma.generation import bucket
from keras_gemma.layers import TokenPooling
from keras_gemma.models.fit_data import is_text, is_tf_dataset, split_at
from keras_gemma.models.fit_run import fit_run
from keras_gemma.models.kept_values import keeping_values
from keras_gemma.models.labelled_texts import LabelledTexts
from keras_gemma.models.preset_model import PARTS_WITHOUT_WEIGHTS, PresetTask
from keras_gemma.models.step_memory import memory_for_steps
from keras_gemma.models.text_batches import TextDataset, features
from keras_gemma.presets import BadPresetError, bundle, registry
from keras_gemma.presets.registry import PARTS

TASK, WEIGHTS = "task.json", "task.weights.h5"
_OF_KERAS = {"name", "trainable", "dtype"}
_OF_PRESETS = {"preset", "load_weights", "strict", "check_finite", "backbone", "preprocessor"}


class TextHead(PresetTask):
    """A model with one output a text; `fit`, `evaluate` and `predict` for texts with labels.

    Where a text will do, so will `{"token_ids", "padding_mask"}` of integers. Texts are padded to
    the next of a few lengths, never to the whole `sequence_length`.
    """

    kind: ClassVar[str]  # how the names of such classes end, whatever the family

    def __init__(self, backbone: Any, preprocessor: Any, head: Any, pooling_mode: str, **kwargs):
        """`head` makes the outputs of pooled hidden states, one vector a text."""
        self._check_known(kwargs, _OF_KERAS)
        inputs = backbone.input
        pooled = TokenPooling(pooling_mode, name="pooling")(
            backbone(inputs), inputs["padding_mask"]
        )
        super().__init__(inputs=inputs, outputs=head(pooled), **kwargs)
        self.dtype_policy = backbone.dtype_policy
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.pooling_mode = pooling_mode

    @classmethod
    def _check_known(cls, given, known):
        if unknown := sorted({*given} - known - {*cls.options}):
            raise TypeError(
                f"{cls.__name__} takes no argument {unknown[0]!r}. Beside its parts it takes "
                f"{', '.join(cls.options)}; name, trainable and dtype as Keras's models do."
            )

    def compile(self, *, remat: bool = False, **kwargs: Any):
        super().compile(**kwargs)
        self._set_remat(remat)

    def get_compile_config(self):
        return {**super().get_compile_config(), "remat": self.remat}

    # --- texts and labels ---

    def fit(self, x=None, y=None, batch_size=None, epochs=1, **kwargs: Any):
        """Train on texts with labels, or on batches of integers; as `keras.Model.fit`.

        Args:
            x: a list of texts, or a tuple of lists for texts of several parts; or a
                `tf.data.Dataset` or `PyDataset` of batches `(texts, labels)`. `(texts, labels)`
                alone will do, too.
            y: labels of a list of texts, such as the loss takes.
            batch_size: texts in a batch; 32 if left out.
            epochs: how often each text is seen.
            **kwargs: as in `keras.Model.fit`: `validation_data`, `class_weight`, ...
        """
        self._warn_of_standstill()
        self._check_labels(x, y)
        x, y, weights = _columns(x, y, kwargs.pop("sample_weight", None))
        validation = kwargs.pop("validation_data", None)
        shuffle = kwargs.setdefault("shuffle", not is_tf_dataset(x))
        if self._is_text(x):
            # What is shuffled is texts, as the batches are made, not batches.
            kwargs["shuffle"] = False
            if (share := kwargs.pop("validation_split", 0)) and validation is None:
                (x, y, weights), validation = _split(x, y, weights, share)
        if validation is not None:
            size = kwargs.pop("validation_batch_size", None) or batch_size
            validation = keras.utils.unpack_x_y_sample_weight(validation)
            found = self._data(*validation, size, "by length")
            kwargs["validation_batch_size"] = found.pop("batch_size")
            kwargs["validation_data"] = tuple(found.values())
        data = self._data(x, y, weights, batch_size, "shuffled" if shuffle else "given")
        room = memory_for_steps(self, data["x"], data["batch_size"])
        run = fit_run(self, data["x"], kwargs, data["y"], data["sample_weight"])
        with room, keeping_values(self, kwargs), run:
            return super().fit(**data, epochs=epochs, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, sample_weight=None, **kwargs: Any):
        """Loss and metrics on texts with labels, given as to `fit`."""
        self._check_labels(x, y)
        data = self._data(*_columns(x, y, sample_weight), batch_size, "by length")
        with keeping_values(self, kwargs):
            return super().evaluate(**data, **kwargs)

    def predict(self, x, batch_size=None, **kwargs: Any):
        """One output a text, in the order of the texts; `x` as to `fit`, without labels."""
        data = self._data(without_pandas(x), None, None, batch_size, "by length")
        with keeping_values(self, kwargs):
            found = super().predict(data["x"], batch_size=data["batch_size"], **kwargs)
        if isinstance(data["x"], LabelledTexts):
            found = found[np.argsort(data["x"].places)]
        return found

    def _one_batch(self, x, y=None, weights=None):
        data = self._data(*_columns(x, y, weights), sys.maxsize, "given")
        if isinstance(data["x"], LabelledTexts):
            return keras.utils.unpack_x_y_sample_weight(data["x"][0])
        return data["x"], data["y"], data["sample_weight"]

    def _check_labels(self, x, y):
        texts = x[-1] if isinstance(x, tuple) and x else x
        if self.loss is not None and y is None and is_text(texts):
            raise ValueError(
                "Texts came without labels, and the loss needs them: fit(texts, labels), or a tuple of both."
            )

    def _is_text(self, x):
        # What reads texts tells what else there is in a list.
        return is_text(x) or (isinstance(x, list) and (not x or x[0] is None))

    def _data(self, x, y, weights, batch_size, order):
        """What Keras is given of what a user gave: `x`, `y`, `sample_weight`, `batch_size`."""
        if is_tf_dataset(x):
            if keras.tree.flatten(features(x.element_spec))[0].dtype.name == "string":
                x = x.map(functools.partial(self._preprocess, width=bucket))
            batch_size = None  # it brings its own batches
        elif isinstance(x, keras.utils.PyDataset):
            if is_text(features(x[0])):
                prepare = self._preprocess
                x = TextDataset(x, lambda b, _: prepare(*(b if isinstance(b, tuple) else (b,))))
            batch_size = None
        elif self._is_text(x):
            x = self._batches(x, y, weights, batch_size or 32, order)
            y = weights = batch_size = None
        return {"x": x, "y": y, "sample_weight": weights, "batch_size": batch_size}

    @property
    def _preprocess(self):
        if self.preprocessor is None:
            raise ValueError(
                "Text needs a preprocessor, and this model has none (preprocessor=None). Attach "
                "one, or give integers: {'token_ids', 'padding_mask'}."
            )
        return self.preprocessor

    def _batches(self, x, y, weights, batch_size, order):
        return LabelledTexts(self._preprocess, x, y, weights, batch_size=batch_size, order=order)

    # --- files ---

    @classmethod
    def from_preset(cls, preset, load_weights=True, dtype=None, **kwargs):
        of_backbone = {*inspect.signature(cls.backbone_class.__init__).parameters} - {"kwargs"}
        cls._check_known(kwargs, _OF_KERAS | _OF_PRESETS | of_backbone)
        folder = registry.folder(preset, PARTS if load_weights else PARTS_WITHOUT_WEIGHTS)
        saved = cls._saved_options(folder)
        if "num_classes" in cls.options and "num_classes" not in {**saved, **kwargs}:
            raise ValueError(
                f"{preset} holds no classifier. Give num_classes=..., for a new one on its backbone."
            )
        task = super().from_preset(preset, load_weights, dtype, **{**saved, **kwargs})
        # As in KerasHub, a number of classes asks for a new head.
        if load_weights and saved and "num_classes" not in kwargs and task.has_task_weights():
            task.load_task_weights(folder / WEIGHTS)
        return task

    @classmethod
    def _saved_options(cls, folder):
        """Arguments of the task that was saved there, if it is of this kind."""
        if not bundle.has(folder, TASK):
            return {}
        name, config = bundle.read_object(folder, TASK)
        if not name.endswith(cls.kind):
            return {}
        parts = ("backbone", "preprocessor", "trainable", "dtype")  # other files say them
        known = {"name": str, **cls.options, **dict.fromkeys(parts)}
        given = {name: value for name, value in config.items() if value is not None}
        return bundle.checked_options(given, known, folder / TASK)

    def _save_preset_weights(self, path):
        super()._save_preset_weights(path)
        if self.has_task_weights():
            self.save_task_weights(path.with_name(WEIGHTS))

    def has_task_weights(self) -> bool:
        """Whether there are weights beside the backbone's."""
        return bool(self._head()[0])

    def save_task_weights(self, filepath: str | Path) -> None:
        """Write the weights that are not the backbone's to a file `*.weights.h5`."""
        weights, table = self._head()
        write_file(
            Path(filepath),
            writables(table, lambda path: keras.ops.convert_to_numpy(weights[path]), "float32"),
        )

    def load_task_weights(self, filepath: str | Path) -> None:
        """Read what `save_task_weights` wrote.

        Raises:
            BadPresetError: the file is missing, damaged, of another head, or holds what is no
                finite number.
        """
        path, (weights, table) = Path(filepath), self._head()
        if not path.is_file():
            raise BadPresetError(bundle.missing(path.parent, path.name))
        tensors = H5Tensors(path)
        check(compare(table, tensors), tensors)
        load(weights, table, tensors)

    def _head(self):
        """The weights that are not the backbone's, by path, and their table: the same paths."""
        known = {id(weight) for weight in self.backbone.weights}
        weights = {weight.path: weight for weight in self.weights if id(weight) not in known}
        shapes = {path: tuple(weight.shape) for path, weight in weights.items()}
        return weights, entries([Rule(path, path) for path in shapes], shapes)


def _columns(x, y=None, weights=None):
    """`(texts, labels)` in place of `x` alone, taken apart; texts of pandas as lists."""
    x = without_pandas(x)
    if isinstance(x, tuple) and y is None and is_text(x) and not is_text(x[-1]):
        return keras.utils.unpack_x_y_sample_weight(x)
    return x, y, weights


def _split(x, y, weights, share):
    """The first texts with what belongs to them, and the last `share` of them."""
    column = (
        x[0] if isinstance(x, tuple) else next(iter(x.values())) if isinstance(x, Mapping) else x
    )
    first = split_at(len(column), share)
    halves = slice(None, first), slice(first, None)
    return [tuple(_rows(part, half) for part in (x, y, weights)) for half in halves]


def _rows(part, rows):
    if isinstance(part, Mapping):
        return {name: column[rows] for name, column in part.items()}
    if isinstance(part, tuple):
        return tuple(column[rows] for column in part)
    return None if part is None else part[rows]
