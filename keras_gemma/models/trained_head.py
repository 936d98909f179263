"""How models that read a text whole are made and trained: what they are given, seen to be what it may be."""

import inspect
from typing import Any

from keras_gemma.models.fit_data import is_text
from keras_gemma.models.text_head import TextHead

_OF_KERAS = {"name", "trainable", "dtype"}
_OF_PRESETS = {"preset", "load_weights", "strict", "check_finite", "backbone", "preprocessor"}


class TrainedHead(TextHead):
    """A `TextHead` with `remat`, that refuses what nothing would become of."""

    def __init__(self, backbone: Any, preprocessor: Any, head: Any, pooling_mode: str, **kwargs):
        self._check_known(kwargs, _OF_KERAS)
        super().__init__(backbone, preprocessor, head, pooling_mode, **kwargs)

    @classmethod
    def from_preset(cls, preset, load_weights=True, dtype=None, **kwargs):
        of_backbone = {*inspect.signature(cls.backbone_class.__init__).parameters} - {"kwargs"}
        cls._check_known(kwargs, _OF_KERAS | _OF_PRESETS | of_backbone)
        return super().from_preset(preset, load_weights, dtype, **kwargs)

    @classmethod
    def _check_known(cls, given, known):
        if unknown := sorted({*given} - known - {*cls.options}):
            raise TypeError(
                f"{cls.__name__} takes no argument {unknown[0]!r}. Beside its parts it takes "
                f"{', '.join(cls.options)}; name, trainable and dtype as Keras's models do."
            )

    def compile(self, *, remat: bool = False, **kwargs: Any):
        super().compile(**kwargs)
        self.remat = remat
        for block in self.backbone.transformer_layers:
            block.remat = remat

    def get_compile_config(self):
        return {**super().get_compile_config(), "remat": self.remat}

    def fit(self, x=None, y=None, batch_size=None, epochs=1, **kwargs: Any):
        self._check_labels(x, y)
        return super().fit(x, y, batch_size, epochs, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, sample_weight=None, **kwargs: Any):
        self._check_labels(x, y)
        return super().evaluate(x, y, batch_size, sample_weight, **kwargs)

    def _check_labels(self, x, y):
        texts = x[-1] if isinstance(x, tuple) and x else x
        if self.loss is not None and y is None and is_text(texts):
            raise ValueError(
                "Texts came without labels, and the loss needs them: fit(texts, labels), or a tuple of both."
            )

    def _is_text(self, x):
        # What reads texts tells what else there is in a list.
        return super()._is_text(x) or (isinstance(x, list) and (not x or x[0] is None))
