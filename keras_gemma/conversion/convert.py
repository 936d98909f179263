"""From one format to another, a tensor at a time and without a model."""

from pathlib import Path

import numpy as np

from keras_gemma.conversion.checkpoint import Checkpoint, Source
from keras_gemma.conversion.formats import FORMATS, format_of, open_checkpoint
from keras_gemma.conversion.formats import chats as formats_chats
from keras_gemma.conversion.weight_map import entries
from keras_gemma.presets.errors import BadPresetError
from keras_gemma.presets.sizes import weight_shapes

WRITTEN = tuple(name for name, module in FORMATS.items() if hasattr(module, "save"))
_BY_SUFFIX = {".gguf": "gguf", ".ckpt": "gemma_pytorch"}


def target_format(out: Path, given: str | None = None) -> str:
    """The format to write: as given, or as the name of the file tells.

    Raises:
        ValueError: it is no format that is written, or the name tells none.
    """
    name = given or _BY_SUFFIX.get(out.suffix)
    if name is None:
        raise ValueError(f"{out} does not tell its format; say which: {', '.join(WRITTEN)}.")
    if name not in WRITTEN:
        raise ValueError(f"format={name!r} is not written. Choose from {', '.join(WRITTEN)}.")
    return name


def convert(
    place: Path,
    out: Path,
    format: str | None = None,
    dtype: str | None = None,
    context_length: int = 8192,
    chats: bool | None = None,
) -> str:
    """Write the checkpoint in `place` anew as `out`; returns the format's name.

    Args:
        place: a folder or file of any format that is read.
        out: a folder, or a file for formats of one file.
        format: one of `WRITTEN`; `.gguf` and `.ckpt` tell it themselves.
        dtype: of the written numbers; the stored ones' if left out.
        context_length: tokens, where the format says so and `place` does not.
        chats: whether the model was tuned on turns, if that is known: whether a template of them is
            written. What `place` says of it, if left out.

    Raises:
        ValueError: the format is not written, or does not hold such numbers.
        BadPresetError: `place` is damaged.
    """
    name = target_format(out, format)
    opened = open_checkpoint(place)
    module = FORMATS[format_of(place)]
    try:
        vocabulary = module.vocabulary(place)
    except BadPresetError:  # weights alone can be converted, too
        vocabulary = None
    source = Source(
        opened.backbone,
        opened.config,
        dtype or opened.config.get("dtype") or "float32",
        Reader(opened),
        vocabulary,
        context_length,
        formats_chats(place) if chats is None else chats,
    )
    FORMATS[name].save(out, source)
    return name


class Reader:
    """The numbers of our weights in an opened checkpoint, by path."""

    def __init__(self, opened: Checkpoint):
        shapes = weight_shapes(opened.backbone, opened.config)
        self._tensors = opened.tensors
        self._entries = {
            part.path: entry for entry in entries(opened.rules, shapes) for part in entry.parts
        }
        self._last: tuple[str, dict[str, np.ndarray]] = ("", {})

    def __call__(self, path: str) -> np.ndarray:
        entry = self._entries[path]
        if self._last[0] != entry.theirs:  # a tensor that holds several of ours is read once
            tensor = self._tensors.read(entry.theirs)
            self._last = entry.theirs, dict(entry.to_ours(tensor))
        return self._last[1][path]
