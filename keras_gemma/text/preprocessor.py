"""What preprocessors have in common: a tokenizer, a row length, options, and their files."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import keras

from keras_gemma.presets import bundle, registry
from keras_gemma.text.tokenizer import GemmaTokenizer

CONFIG_FILE = "preprocessor.json"


class Preprocessor:
    """A tokenizer with options that say how text becomes rows; saved and loaded with a preset.

    A subclass names its options, which are arguments and attributes alike.

    Args:
        tokenizer: a `GemmaTokenizer`.
        sequence_length: tokens in a row; may be set later, too.
        **kwargs: KerasHub's arguments that mean nothing here.
    """

    presets = registry.PresetsOfFamily()
    tokenizer_class = GemmaTokenizer
    # As files have it, KerasHub's name where it has such a class; and how the names of those
    # classes end whose options are these.
    preset_class: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    # Options of KerasHub's class, and those of ours, which stand under a key of their own.
    options: ClassVar[dict[str, type]]
    own_options: ClassVar[dict[str, type]] = {}
    # Arguments of KerasHub's class that mean nothing here, as its files hold them.
    ignored = frozenset({"trainable", "dtype", "config_file"})

    def __init__(self, tokenizer: GemmaTokenizer, sequence_length: int, name: str, **kwargs: Any):
        if unknown := set(kwargs) - self.ignored:
            raise TypeError(f"{type(self).__name__} takes no argument {sorted(unknown)}.")
        self.name = name
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length

    @property
    def sequence_length(self) -> int:
        """Tokens in a row of training, and the longest prompt."""
        return self._sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int):
        self._sequence_length = checked_length(value)

    def _values(self, names):
        return {name: getattr(self, name) for name in names}

    def get_config(self) -> dict[str, Any]:
        """All that makes this preprocessor again, its tokenizer included."""
        return {
            **self._values((*self.options, *self.own_options)),
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The preprocessor of such a configuration."""
        tokenizer = keras.saving.deserialize_keras_object(config["tokenizer"])
        return cls(**{**config, "tokenizer": tokenizer})

    def preset_config(self) -> dict[str, Any]:
        """`preprocessor.json` of a preset as KerasHub reads it.

        What KerasHub has no argument for stands under a key of its own, which it passes over.
        """
        config = {**self._values(self.options), "config_file": CONFIG_FILE}
        config["tokenizer"] = self.tokenizer.preset_config()
        record = bundle.serialized(self.preset_class, config)
        own = {name: v for name, v in self._values(self.own_options).items() if v is not None}
        return {**record, "keras_gemma": own} if own else record

    @classmethod
    def from_preset(cls, preset: str | Path, **kwargs: Any) -> Self:
        """The preprocessor of a preset, given by name or as a folder.

        A preset saved by another kind of task has the tokenizer; the rest is as if left out.
        """
        folder = registry.folder(preset, ("config", "tokenizer"))
        config: dict[str, Any] = {}
        if bundle.has(folder, CONFIG_FILE) and cls._is_described(folder):
            # tokenizer.json says what the tokenizer is.
            known = {**cls.options, **dict.fromkeys(("tokenizer", *cls.ignored))}
            config = bundle.read_options(folder, CONFIG_FILE, "Preprocessor", known)
            own = bundle.read_json(folder, CONFIG_FILE).get("keras_gemma", {})
            config |= bundle.checked_options(own, cls.own_options, folder / CONFIG_FILE)
        tokenizer = kwargs.pop("tokenizer", None) or cls.tokenizer_class.from_preset(preset)
        return cls(**{**config, **kwargs, "tokenizer": tokenizer})

    @classmethod
    def _is_described(cls, folder):
        name, _ = bundle.read_object(folder, CONFIG_FILE)
        return name.endswith(cls.kinds) or not name.endswith("Preprocessor")

    def save_to_preset(self, preset_dir: str | Path) -> None:
        """Write `preprocessor.json`, `tokenizer.json` and the vocabulary into a preset folder."""
        self.tokenizer.save_to_preset(preset_dir)
        text = json.dumps(self.preset_config(), indent=4)
        (Path(preset_dir) / CONFIG_FILE).write_text(text, encoding="utf-8")


def checked_length(length: Any) -> int:
    """A number of tokens in a row, seen to be one."""
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"sequence_length={length!r} must be a whole number of at least 1.")
    return length
