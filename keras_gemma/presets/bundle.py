"""The preset folder that KerasHub understands, read with suspicion.

    config.json              the backbone and its arguments
    tokenizer.json           the tokenizer's options; its vocabulary is assets/tokenizer/vocabulary.spm
    preprocessor.json        the preprocessor's options (may be missing)
    task.json                backbone and preprocessor again, as KerasHub writes them (may be missing)
    metadata.json            versions, parameter count, date (may be missing)
    model.weights.h5         what `backbone.save_weights` writes,
    or model.weights.json     … in several files, which it names

`bundle_writer` writes one. Neither knows a model class: they take and give plain dicts.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_gemma.presets.bundle_writer import metadata, serialized, write, write_whole
from keras_gemma.presets.classes import MODULES
from keras_gemma.presets.errors import BadPresetError
from keras_gemma.presets.fields import check_backbone

__all__ = [
    "checked_options",
    "class_of",
    "has",
    "metadata",
    "missing",
    "read_backbone",
    "read_json",
    "read_object",
    "read_options",
    "reading",
    "serialized",
    "write",
    "write_whole",
]

WEIGHTS = "model.weights.h5"
SHARDS = "model.weights.json"
# Real ones are a few kilobytes; a parser should not be fed more than it can be made to hold.
_LARGEST_JSON = 4 * 2**20


def has(folder: Path, file: str) -> bool:
    """Whether an optional file is there."""
    return (folder / file).is_file()


def read_json(folder: Path, file: str) -> dict[str, Any]:
    """One JSON file of a preset folder.

    Raises:
        BadPresetError: the file is missing, truncated, or not an object; it is named.
    """
    path = folder / file
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise BadPresetError(f"{path} is too large for a {file} ({path.stat().st_size} bytes).")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadPresetError(missing(folder, file)) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadPresetError):
            raise
        raise BadPresetError(
            f"{path} is not whole JSON ({error}). Get the preset again, or save it again."
        ) from None
    except OSError as error:
        raise BadPresetError(f"{path} can't be read: {error.strerror}.") from None
    if not isinstance(value, dict):
        raise BadPresetError(f"{path} must hold an object, not a {type(value).__name__}.")
    return value


def class_of(record: Any, where: Any) -> str:
    """The class a record was saved as, if it is one of those this library reads.

    >>> class_of({"registered_name": "keras_hub>GemmaBackbone"}, "config.json")
    'GemmaBackbone'
    """
    name = record.get("registered_name") if isinstance(record, Mapping) else None
    package, _, class_name = str(name).partition(">")
    if package not in ("keras_hub", "keras_nlp", "keras_gemma") or class_name not in MODULES:
        raise BadPresetError(
            f"{where} describes a {str(name)[:80]!r}; this library reads {', '.join(MODULES)}."
        )
    return class_name


def read_object(folder: Path, file: str) -> tuple[str, dict[str, Any]]:
    """`(class name, config)` of one of a folder's files; the class is one of a closed list."""
    record, where = read_json(folder, file), folder / file
    if "registered_name" not in record and "model_type" in record:
        raise BadPresetError(
            f"{where} is a Hugging Face configuration, which this release does not read. "
            "KerasHub's from_preset and save_to_preset make a preset folder of it."
        )
    class_name, config = class_of(record, where), record.get("config")
    if not isinstance(config, dict):
        raise BadPresetError(f"{where}: 'config' must be an object.")
    return class_name, config


def read_backbone(folder: Path) -> tuple[str, dict[str, Any]]:
    """`(class name, arguments)` of the backbone that `config.json` describes.

    `dtype` among the arguments is the name of a policy.

    Raises:
        BadPresetError: naming the file and the field.
    """
    class_name, config = read_object(folder, "config.json")
    if not class_name.endswith("Backbone"):
        raise BadPresetError(f"{folder / 'config.json'} describes a {class_name}, not a backbone.")
    return class_name, check_backbone(class_name, config, str(folder / "config.json"))


def read_options(folder: Path, file: str, ending: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that one of a folder's files tells, each seen to be of its type.

    Args:
        folder: of the preset.
        file: of the record.
        ending: of the name of its class: `"Tokenizer"`.
        table: as of `checked_options`.

    Raises:
        BadPresetError: naming the file and the argument.
    """
    class_name, config = read_object(folder, file)
    if not class_name.endswith(ending):
        raise BadPresetError(f"{folder / file} describes a {class_name}, not a {ending.lower()}.")
    return checked_options(config, table, folder / file)


def checked_options(options: Any, table: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """Options, seen to be of the types in `table`; those of `None` are left out.

    >>> checked_options({"pack": True, "dtype": 3}, {"pack": bool, "dtype": None}, "x.json")
    {'pack': True}

    Raises:
        BadPresetError: there is another, or one of another type.
    """
    if not isinstance(options, Mapping):
        raise BadPresetError(f"{where}: options must be an object, not a {type(options).__name__}.")
    found = {}
    for name, value in options.items():
        if name not in table:
            raise BadPresetError(f"{where}: there is no option {name!r:.60}.")
        kind = table[name]
        if kind is None:
            continue
        is_switch = isinstance(value, bool)  # which Python counts among the whole numbers
        if not isinstance(value, kind) or is_switch != (kind is bool):
            raise BadPresetError(f"{where}: {name}={value!r:.60} is not what it may be.")
        if isinstance(value, int) and not is_switch and not 0 < value < 2**31:
            raise BadPresetError(f"{where}: {name}={value!r:.60} must be at least 1, below 2**31.")
        found[name] = value
    return found


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """While a file that others parse is read: what goes wrong names the file."""
    try:
        yield
    except FileNotFoundError:
        raise BadPresetError(missing(path.parent, path.name)) from None
    except (OSError, ValueError, RuntimeError) as error:  # SentencePiece's are of the last kind
        raise BadPresetError(f"{path} is truncated or damaged: {error}") from error


def missing(folder: Path, file: str) -> str:
    """What to say of a file that is not there."""
    if not folder.is_dir():
        return f"There is no preset folder {folder}."
    there = sorted(path.name for path in folder.iterdir())[:12]
    return f"{folder} has no {file}. There is: {', '.join(there) or 'nothing'}."
