"""The formats there are, and which of them lies in a folder or file."""

from pathlib import Path

import keras_gemma.conversion.gemma_pytorch.checkpoint as gemma_pytorch
import keras_gemma.conversion.gguf.checkpoint as gguf
import keras_gemma.conversion.huggingface.checkpoint as huggingface
import keras_gemma.conversion.keras_hub.checkpoint as keras_hub
import keras_gemma.conversion.orbax.checkpoint as orbax
from keras_gemma.conversion import peft
from keras_gemma.conversion.checkpoint import Checkpoint
from keras_gemma.presets.errors import BadPresetError

# Each format is a module with `recognizes(place)`, `open_checkpoint(place, load_weights)`,
# `vocabulary(place)` and, if it is written, too, `save(place, source)`; adding one is adding a line.
# One whose checkpoints may come without a tokenizer has `has_vocabulary(place)`; one that says
# whether a model was tuned on turns has `chats(place)`.
FORMATS = {
    "gemma_pytorch": gemma_pytorch,
    "gguf": gguf,
    "huggingface": huggingface,
    "keras_hub": keras_hub,
    "orbax": orbax,
    "peft": peft,
}


def format_of(place: Path) -> str:
    """The name of the format that lies in a folder, or that a file is in.

    Raises:
        BadPresetError: it is none, or several at once.
    """
    found = [name for name, module in FORMATS.items() if module.recognizes(place)]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadPresetError(
            f"{place} holds weights in several formats: {', '.join(found)}. Keep one of them."
        )
    there = sorted(path.name for path in place.iterdir())[:12] if place.is_dir() else [place.name]
    raise BadPresetError(
        f"{place} is no checkpoint of a known format ({', '.join(FORMATS)}). "
        f"There is: {', '.join(there) or 'nothing'}."
    )


def open_checkpoint(place: Path, load_weights: bool = True, strict: bool = True) -> Checkpoint:
    """The checkpoint in a folder or file; if `strict`, its headers seen to fit its configuration.

    Raises:
        BadPresetError: naming the file, and the field or the tensor.
    """
    opened = FORMATS[format_of(place)].open_checkpoint(place, load_weights)
    if opened.tensors is not None and strict:
        opened.check()
    return opened


def has_vocabulary(place: Path) -> bool:
    """Whether the checkpoint in a folder or file comes with a tokenizer."""
    module = FORMATS[format_of(place)]
    return module.has_vocabulary(place) if hasattr(module, "has_vocabulary") else True


def chats(place: Path) -> bool | None:
    """Whether the model in a folder or file was tuned on turns; None where nothing says so."""
    module = FORMATS[format_of(place)]
    return module.chats(place) if hasattr(module, "chats") else None


def vocabulary(place: Path) -> bytes:
    """The SentencePiece model of the checkpoint in a folder or file.

    Raises:
        BadPresetError: it has none, or a damaged one.
    """
    return FORMATS[format_of(place)].vocabulary(place)
