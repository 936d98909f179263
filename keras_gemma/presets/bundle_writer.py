"""Writes a preset folder so that it is whole or not there."""

import datetime
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_gemma.presets.classes import MODULES
from keras_gemma.version import __version__

# What belongs to a preset folder; anything else that lies in it is left alone.
_OWNED = (
    "assets",
    "config.json",
    "metadata.json",
    "model.weights.h5",
    "model.weights.json",
    "model_*.weights.h5",
    "preprocessor.json",
    "task.json",
    "task.weights.h5",
    "tokenizer.json",
)
# Read first by every loader: a folder without it is no preset.
_MANIFEST = "config.json"


def serialized(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an object as KerasHub saves it, so that its `from_preset` finds its class.

    >>> serialized("GemmaTokenizer", {"add_bos": False})["registered_name"]
    'keras_hub>GemmaTokenizer'
    """
    module = MODULES[class_name]
    return {
        "module": module,
        "class_name": class_name,
        "config": dict(config),
        "registered_name": f"{module.partition('.')[0]}>{class_name}",
    }


def metadata(parameter_count: int, keras_version: str, tasks: tuple[str, ...] = ()) -> dict:
    """What `metadata.json` holds."""
    return {
        "keras_version": keras_version,
        "keras_hub_version": None,  # a field its readers look for; KerasHub did not write this
        "keras_gemma_version": __version__,
        "parameter_count": parameter_count,
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": list(tasks),
    }


def write(
    folder: str | Path,
    files: Mapping[str, Mapping[str, Any]],
    save_weights: Callable[[Path], Any] | None = None,
    assets: Mapping[str, Callable[[Path], Any]] | None = None,
) -> Path:
    """Write a preset folder: all of it first into a folder of its own, then moved into place.

    A folder that is new appears whole. One that exists keeps the files that are not a preset's;
    its `config.json` goes first and comes back last, so that what lies there is never half of the
    old preset and half of the new one.

    Args:
        folder: where the preset shall lie; parents are made.
        files: JSON files by name.
        save_weights: is called with the path of `model.weights.h5`.
        assets: is called, each, with a folder of its name below `assets/`, which exists.

    Returns:
        The folder.
    """

    def fill(part: Path) -> None:
        for name, value in files.items():
            text = json.dumps(value, indent=4, allow_nan=False)
            (part / name).write_text(text + "\n", encoding="utf-8")
        for name, save in (assets or {}).items():
            (part / "assets" / name).mkdir(parents=True)
            save(part / "assets" / name)
        if save_weights is not None:
            save_weights(part / "model.weights.h5")

    return write_whole(folder, fill, _OWNED)


def write_whole(
    folder: str | Path, fill: Callable[[Path], Any], owned: tuple[str, ...] = _OWNED
) -> Path:
    """Write a folder of any format that has a `config.json`, as `write` does.

    Args:
        folder: where it shall lie; parents are made.
        fill: is called with an empty folder, to be filled.
        owned: patterns of the names that belong to the format, and are replaced.

    Returns:
        The folder.
    """
    folder = Path(folder).expanduser().resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    exists = folder.is_dir()
    mark = f"part-{secrets.token_hex(4)}"
    # Beside or inside the folder: renaming works within one file system only.
    part = folder / f".{mark}" if exists else folder.parent / f".{folder.name}.{mark}"
    part.mkdir()
    try:
        fill(part)
        _sync_tree(part)
        if exists:
            _move_into(part, folder, owned)
        else:
            part.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _move_into(part, folder, owned):
    (folder / _MANIFEST).unlink(missing_ok=True)
    _sync(folder)
    for pattern in owned:
        for old in folder.glob(pattern):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for new in sorted(part.iterdir(), key=lambda path: path.name == _MANIFEST):
        new.rename(folder / new.name)
    _sync(folder)


def _sync_tree(root):
    for path in root.rglob("*"):
        _sync(path)
    _sync(root)


def _sync(path):
    """Bring a file or folder to the disk, where the system can do that for it."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # A disk may tell no sooner than now that it has no room, or that it is broken.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
