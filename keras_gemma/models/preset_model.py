"""Models that come from a preset and go into one."""

import functools
from pathlib import Path
from typing import Any, Self

import keras

from keras_gemma.layers import left_blank
from keras_gemma.presets import PresetError, bundle, registry


class PresetModel(keras.Model):
    """A model with `from_preset`, `save_to_preset` and the list of presets."""

    @classmethod
    @functools.cache
    def _presets(cls):
        return {name: registry.card(name) for name in registry.names()}

    @classmethod
    def presets(cls) -> dict[str, dict]:
        """What is known of each preset, by name."""
        return dict(cls._presets())

    @classmethod
    def from_preset(
        cls, preset: str | Path, load_weights: bool = True, dtype: Any = None, **kwargs: Any
    ) -> Self:
        """The model of a preset: a name of `presets()`, or a preset folder of ours or KerasHub's.

        Args:
            preset: a name or a folder.
            load_weights: whether to load the weights; without, they are drawn at random.
            dtype: of weights and computation, a name or a `keras.DTypePolicy`; the policy of
                `keras.config` if left out.
            **kwargs: arguments to set otherwise than the preset does.

        Raises:
            PresetError: there is no such preset, or its files are missing, damaged or of
                another kind of model.
        """
        raise NotImplementedError

    def save_to_preset(self, preset_dir: str | Path) -> None:
        """Write a preset folder that `from_preset` here and in KerasHub reads.

        It appears whole or not at all; an existing one is replaced.
        """
        raise NotImplementedError


class PresetBackbone(PresetModel):
    """A backbone in a preset folder: `config.json` and `model.weights.h5`."""

    @classmethod
    def from_preset(cls, preset, load_weights=True, dtype=None, **kwargs):
        folder = registry.folder(preset)
        files = bundle.read_backbone(folder, load_weights)
        if files.class_name != cls.__name__:
            raise PresetError(
                f"{preset} holds a {files.class_name}, not a {cls.__name__}. "
                f"Call {files.class_name.replace('Backbone', '')}… instead."
            )
        config = {**files.config, **kwargs, "dtype": dtype or keras.config.dtype_policy()}
        if files.weights is None:
            return cls(**config)
        with left_blank():
            backbone = cls(**config)
        backbone.load_weights(files.weights)
        return backbone

    def save_to_preset(self, preset_dir):
        bundle.write(preset_dir, self._preset_files(), self.save_weights)

    def _preset_files(self):
        return {
            "config.json": bundle.serialized(type(self).__name__, self.get_config()),
            "metadata.json": bundle.metadata(
                self.count_params(), keras.version(), tasks=("CausalLM",)
            ),
        }


class PresetTask(PresetModel):
    """A task in a preset folder: its backbone, its preprocessor and the tokenizer's vocabulary."""

    backbone_class: type
    preprocessor_class: type

    @classmethod
    def from_preset(cls, preset, load_weights=True, dtype=None, **kwargs):
        backbone = kwargs.pop("backbone", None)
        if "preprocessor" in kwargs:
            preprocessor = kwargs.pop("preprocessor")
        elif bundle.has(registry.folder(preset), "tokenizer.json"):
            preprocessor = cls.preprocessor_class.from_preset(preset)
        else:
            preprocessor = None
        own = {name: kwargs.pop(name) for name in ("name", "trainable") if name in kwargs}
        if backbone is None:
            backbone = cls.backbone_class.from_preset(preset, load_weights, dtype, **kwargs)
        return cls(backbone=backbone, preprocessor=preprocessor, **own)

    def save_to_preset(self, preset_dir):
        files, assets = self.backbone._preset_files(), {}
        parts = {"backbone": files["config.json"], "preprocessor": None}
        if self.preprocessor is not None:
            files["preprocessor.json"] = parts["preprocessor"] = self.preprocessor.preset_config()
            files["tokenizer.json"] = self.preprocessor.tokenizer.preset_config()
            assets["tokenizer"] = self.preprocessor.tokenizer.save_assets
        files["task.json"] = bundle.serialized(type(self).__name__, {**parts, "name": self.name})
        bundle.write(preset_dir, files, self.backbone.save_weights, assets)
