"""The preset folder that KerasHub understands, read with suspicion.

    config.json              the backbone and its arguments
    tokenizer.json           the tokenizer's options; its vocabulary is assets/tokenizer/vocabulary.spm
    preprocessor.json        the preprocessor's options (may be missing)
    task.json                backbone and preprocessor again, as KerasHub writes them (may be missing)
    metadata.json            versions, parameter count, date (may be missing)
    model.weights.h5         what `backbone.save_weights` writes

`bundle_writer` writes one. Neither knows a model class: they take and give plain dicts.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from keras_gemma.presets.bundle_writer import metadata, serialized, write
from keras_gemma.presets.classes import MODULES
from keras_gemma.presets.errors import BadPresetError
from keras_gemma.presets.fields import check_backbone
from keras_gemma.presets.sizes import weight_shapes

__all__ = [
    "BackboneFiles",
    "class_of",
    "has",
    "metadata",
    "read_backbone",
    "read_json",
    "read_object",
    "reading",
    "serialized",
    "weights_file",
    "write",
]

WEIGHTS = "model.weights.h5"
SHARDS = "model.weights.json"
# Real ones are a few kilobytes; a parser should not be fed more than it can be made to hold.
_LARGEST_JSON = 4 * 2**20


class BackboneFiles(NamedTuple):
    """What a folder says of its backbone, seen to fit together."""

    class_name: str  # "GemmaBackbone" or "Gemma3Backbone"
    config: dict[str, Any]  # the arguments; `dtype` is the name of a policy
    weights: Path | None  # None where weights were not asked for


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
        raise BadPresetError(_missing(folder, file)) from None
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
    if package not in ("keras_hub", "keras_gemma") or class_name not in MODULES:
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


def read_backbone(folder: Path, load_weights: bool = True) -> BackboneFiles:
    """What `config.json` says, and the file of weights that was seen to fit it.

    Raises:
        BadPresetError: naming the file and the field or the weight. Nothing has been allocated
            for a model by then.
    """
    class_name, config = read_object(folder, "config.json")
    if not class_name.endswith("Backbone"):
        raise BadPresetError(f"{folder / 'config.json'} describes a {class_name}, not a backbone.")
    config = check_backbone(class_name, config, str(folder / "config.json"))
    return BackboneFiles(
        class_name, config, weights_file(folder, class_name, config) if load_weights else None
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """While a file that others parse is read: what goes wrong names the file."""
    try:
        yield
    except FileNotFoundError:
        raise BadPresetError(_missing(path.parent, path.name)) from None
    except (OSError, ValueError) as error:
        raise BadPresetError(f"{path} is truncated or damaged: {error}") from error


def weights_file(folder: Path, backbone: str, config: Mapping[str, Any]) -> Path:
    """The file of weights, each of the shape that the configuration foresees.

    Raises:
        BadPresetError: the file is missing, truncated or damaged, or a weight in it is missing,
            unknown, or of another shape; at most five are named.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        if has(folder, SHARDS):
            raise BadPresetError(
                f"The weights of {folder} are split over several files ({SHARDS}), which this "
                "release does not read. Save them in one file: KerasHub's "
                "save_to_preset(folder, max_shard_size=None)."
            )
        raise BadPresetError(_missing(folder, WEIGHTS))
    import h5py  # slow to import, and not needed to list presets

    expected = {f"{name}/vars/0": s for name, s in weight_shapes(backbone, config).items()}
    try:
        with h5py.File(path, "r") as file:
            found = dict(_arrays(h5py, file, path, ""))
    except BadPresetError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, RecursionError) as error:
        raise BadPresetError(
            f"{path} is truncated or damaged ({error}). Get the preset again, or save it again."
        ) from None
    _compare(found, expected, path)
    return path


def _arrays(h5py, group, path, prefix):
    """`(name, shape)` of every array; links that lead elsewhere are refused unread."""
    for key in group:
        name = f"{prefix}/{key}" if prefix else key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise BadPresetError(f"{path}: {name} is a link, and links are not followed.")
        item = group[key]
        if not isinstance(item, h5py.Dataset):
            if name.count("/") > 16:
                raise BadPresetError(f"{path}: groups are nested too deep at {name}.")
            yield from _arrays(h5py, item, path, name)
            continue
        if item.external or item.is_virtual:
            raise BadPresetError(f"{path}: {name} has its numbers in another file.")
        if "seed_generator" in name:  # states of dropout, which no model needs back
            continue
        needed = math.prod(item.shape) * item.dtype.itemsize
        stored = item.id.get_storage_size()
        if stored != needed and item.compression is None:
            raise BadPresetError(f"{path}: {name} has {stored} bytes stored, {needed} awaited.")
        yield name, tuple(item.shape)


def _compare(found, expected, path):
    problems = [
        f"{name} has shape {found[name]}, awaited {shape}"
        if name in found
        else f"{name} {shape} is missing"
        for name, shape in expected.items()
        if found.get(name) != shape
    ]
    problems += [f"{name} {found[name]} is unknown" for name in found if name not in expected]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise BadPresetError(
            f"{path} does not fit the config.json beside it: {'; '.join(problems[:5])}{more}."
        )


def _missing(folder, file):
    if not folder.is_dir():
        return f"There is no preset folder {folder}."
    there = sorted(path.name for path in folder.iterdir())[:12]
    return f"{folder} has no {file}. There is: {', '.join(there) or 'nothing'}."
