"""Names to files: what presets there are, and the folders that hold one. Knows no model class."""

from keras_gemma.presets.errors import BadPresetError, PresetAccessError, PresetError
from keras_gemma.presets.registry import card, folder, names, recipe

__all__ = [
    "BadPresetError",
    "PresetAccessError",
    "PresetError",
    "card",
    "folder",
    "names",
    "recipe",
]
