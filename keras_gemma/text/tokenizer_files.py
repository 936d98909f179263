"""A tokenizer's configuration, and its files in a preset folder."""

import base64
import binascii
import json
from pathlib import Path
from typing import Any, Self

from keras_gemma.conversion.formats import vocabulary
from keras_gemma.presets import bundle, registry
from keras_gemma.presets.errors import BadPresetError
from keras_gemma.text.tokenizer_inputs import dtype_name

VOCABULARY_FILE = "vocabulary.spm"
CONFIG_FILE = "tokenizer.json"
# What a preset's file may say of a tokenizer: types, and None where it is no business of ours.
_OPTIONS = {
    "name": str,
    "dtype": (str, dict),
    "sequence_length": (int, type(None)),
    "add_bos": bool,
    "add_eos": bool,
    **dict.fromkeys(("config_file", "proto", "trainable", "has_vision_tokens")),
}


def _options(folder: Path) -> dict[str, Any]:
    """The arguments of the tokenizer in a preset folder."""
    found = bundle.read_options(folder, CONFIG_FILE, "Tokenizer", _OPTIONS)
    if "dtype" in found:
        try:
            found["dtype"] = dtype_name(found["dtype"])
        except (ValueError, TypeError, LookupError):
            where = folder / CONFIG_FILE
            raise BadPresetError(
                f"{where}: dtype={found['dtype']!r:.60} is no integer type."
            ) from None
    return found


class TokenizerFiles:
    """The part of `GemmaTokenizer` that writes it down and reads it back."""

    preset_class = "GemmaTokenizer"  # KerasHub's name for it, as its files have it

    proto: bytes | None
    name: str
    dtype: str
    sequence_length: int | None
    add_bos: bool
    add_eos: bool

    def get_config(self) -> dict[str, Any]:
        """All that makes this tokenizer again, the vocabulary in base64 included."""
        return {
            **self._preset_options(),
            "proto": base64.b64encode(self.proto).decode() if self.proto else None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The tokenizer of such a configuration; no path in it is followed."""
        config = dict(config)
        if isinstance(proto := config.get("proto"), str):
            try:
                config["proto"] = base64.b64decode(proto, validate=True)
            except binascii.Error:
                raise ValueError(
                    f"`proto` of a configuration is a model in base64, not {proto[:80]!r}. "
                    "Files are opened by GemmaTokenizer(proto=path) only."
                ) from None
        return cls(**config)

    def preset_config(self) -> dict[str, Any]:
        """`tokenizer.json` of a preset as KerasHub reads it; the vocabulary lies beside it."""
        config = {**self._preset_options(), "config_file": CONFIG_FILE, "proto": None}
        return bundle.serialized(self.preset_class, config)

    def _preset_options(self):
        return {
            "name": self.name,
            "dtype": self.dtype,
            "sequence_length": self.sequence_length,
            "add_bos": self.add_bos,
            "add_eos": self.add_eos,
        }

    @classmethod
    def from_preset(cls, preset: str | Path, **kwargs: Any) -> Self:
        """The tokenizer of a preset, given by name or as a folder."""
        folder = registry.folder(preset, ("config", "tokenizer"))
        if not (folder / "assets").is_dir():  # of another format than KerasHub's
            proto = vocabulary(folder)
            with bundle.reading(folder):
                return cls(**{"proto": proto, **kwargs})
        tokenizer = cls(**{**_options(folder), **kwargs})
        assets = folder / "assets" / "tokenizer"
        with bundle.reading(assets / VOCABULARY_FILE):
            tokenizer.load_assets(assets)
        return tokenizer

    def save_to_preset(self, preset_dir: str | Path) -> None:
        """Write `tokenizer.json` and the vocabulary into a preset folder."""
        assets = Path(preset_dir) / "assets" / "tokenizer"
        assets.mkdir(parents=True, exist_ok=True)
        self.save_assets(assets)
        text = json.dumps(self.preset_config(), indent=4)
        (Path(preset_dir) / CONFIG_FILE).write_text(text, encoding="utf-8")

    def save_assets(self, dir_path: str | Path) -> None:
        """Write the vocabulary as `vocabulary.spm` into a folder."""
        if self.proto is None:
            raise ValueError("This tokenizer has no vocabulary to save.")
        (Path(dir_path) / VOCABULARY_FILE).write_bytes(self.proto)

    def load_assets(self, dir_path: str | Path) -> None:
        """Read the vocabulary from `vocabulary.spm` in a folder."""
        self.set_proto(Path(dir_path) / VOCABULARY_FILE)

    def set_proto(self, proto: str | bytes | Path) -> None:
        raise NotImplementedError
