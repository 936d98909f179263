"""Which of a preset's files are needed for what is asked: no weights for a tokenizer.

Places are asked by `has(name)`, since some can't tell what they hold; `read(name)` fetches a small
JSON file. So the same rules serve a hub, a bucket, and a cache without a network.
"""

from collections.abc import Callable, Iterable
from typing import Any

from keras_gemma.presets.errors import BadPresetError, PresetError
from keras_gemma.presets.handles import inside

PARTS = ("config", "tokenizer", "weights")

_SMALL = ("generation_config.json", "metadata.json", "preprocessor.json", "task.json")
_TOKENIZER_OPTIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
VOCABULARY = "assets/tokenizer/vocabulary.spm"
# A folder of KerasHub's, one of Hugging Face's: the whole file, or the list of its shards.
WEIGHTS = {
    "keras": ("model.weights.h5", "model.weights.json"),
    "huggingface": ("model.safetensors", "model.safetensors.index.json"),
}
_MOST_SHARDS = 10_000


class Needed:
    """The files of a place that some parts of a preset need."""

    def __init__(
        self,
        where: str,
        has: Callable[[str], bool],
        read: Callable[[str], dict[str, Any]],
        listing: Iterable[str] = (),
    ):
        self.where, self.has, self.read, self.listing = where, has, read, sorted(listing)
        self.kind = None  # "keras" or "huggingface", once config.json is read

    def files(self, parts: Iterable[str]) -> list[str]:
        """Names, the small ones first; what a preset can do without may be missing.

        Raises:
            PresetError: nothing there describes a model.
        """
        found = self._config()
        for part, look in (("tokenizer", self._tokenizer), ("weights", self._weights)):
            if part in parts:
                found += look()
        return [inside(name, self.where) for name in dict.fromkeys(found)]

    def _config(self):
        described = [name for name in ("config.json", "adapter_config.json") if self.has(name)]
        if not described:
            raise PresetError(self._nothing())
        if "config.json" in described:
            record = self.read("config.json")
            self.kind = "huggingface" if "model_type" in record else "keras"
        return described + [name for name in _SMALL if self.has(name)]

    def _nothing(self):
        if single := [name for name in self.listing if name.endswith((".gguf", ".ckpt"))]:
            return (
                f"{self.where} has no config.json. A file is asked for by its name: "
                + ", ".join(f"{self.where}/{name}" for name in single[:5])
                + "."
            )
        there = ", ".join(self.listing[:12])
        return f"{self.where} has no config.json, so it holds no preset." + (
            f" There is: {there}." if there else ""
        )

    def _tokenizer(self):
        if self.kind == "keras" or self.has(VOCABULARY):
            assets = [name for name in self.listing if name.startswith("assets/tokenizer/")]
            named = ["tokenizer.json", *(assets or [VOCABULARY])]
            return [name for name in named if self.has(name)]
        # tokenizer.json says the same again, four times as long.
        either = [name for name in ("tokenizer.model", "tokenizer.json") if self.has(name)][:1]
        return [name for name in _TOKENIZER_OPTIONS if self.has(name)] + either

    def _weights(self):
        found = ["adapter_model.safetensors"] if self.has("adapter_model.safetensors") else []
        kinds = sorted(WEIGHTS, key=lambda kind: kind != self.kind)
        for kind in kinds:
            whole, index = WEIGHTS[kind]
            if self.has(whole):
                return [*found, whole]
            if self.has(index):
                return [*found, index, *shards(self.read(index), f"{self.where}/{index}")]
        original = [name for name in self.listing if name.endswith(".ckpt") and "/" not in name]
        return found or (original if len(original) == 1 else [])


def shards(index: dict[str, Any], where: str) -> list[str]:
    """The files that an index of weights names, each seen to lie beside it.

    >>> shards({"weight_map": {"a": "x-1.safetensors", "b": ["x-1.safetensors", "x-2.safetensors"]}}, "")
    ['x-1.safetensors', 'x-2.safetensors']
    """
    table = index.get("weight_map")
    if not isinstance(table, dict):
        raise BadPresetError(f"{where}: 'weight_map' must be an object.")
    names: dict[str, None] = {}
    for value in table.values():
        for name in value if isinstance(value, list) else [value]:
            names[inside(name, where)] = None
            if len(names) > _MOST_SHARDS:
                raise BadPresetError(f"{where} names more than {_MOST_SHARDS} files.")
    return sorted(names)


def checked(parts: Iterable[str]) -> tuple[str, ...]:
    """Parts, seen to be ones there are.

    >>> checked({"weights", "config"})
    ('config', 'weights')
    """
    asked = {parts} if isinstance(parts, str) else set(parts)
    if not asked or not asked <= set(PARTS):
        raise PresetError(f"parts={sorted(asked)} must be some of {', '.join(PARTS)}.")
    return tuple(part for part in PARTS if part in asked)
