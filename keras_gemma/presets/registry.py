"""What presets and recipes there are, and where their files lie."""

import difflib
import os
from pathlib import Path
from typing import Any

from keras_gemma.presets import bundle
from keras_gemma.presets.cards import check_card
from keras_gemma.presets.errors import PresetAccessError, PresetError
from keras_gemma.presets.sizes import parameter_count

SCHEMES = ("kaggle", "hf", "gs", "modelscope")


def root() -> Path:
    """The folder of cards: inside the package where it was installed, else beside it."""
    package = Path(__file__).parents[1]
    inside = package / "_presets"
    return inside if inside.is_dir() else package.parent / "presets"


def names() -> list[str]:
    """Every preset there is a card of; those that come with the package stand first.

    >>> "gemma_2b_en" in names()
    True
    """
    return sorted(_cards(), key=lambda name: (not is_bundled(name), name))


def is_bundled(name: str) -> bool:
    """Whether its weights come with the package."""
    return name in _cards() and _cards()[name].name == "card.json"


def card(name: str) -> dict[str, Any]:
    """What is known of a preset, without its weights: see `presets/README.md` for the fields.

    >>> card("gemma_2b_en")["parameters"]
    2506172416

    Raises:
        PresetError: there is no such preset; near names are told.
    """
    path = _cards().get(name)
    if path is None:
        raise PresetError(_unknown(name))
    place, found = path.parent, bundle.read_json(path.parent, path.name)
    if not is_bundled(name):
        return check_card({**found, "bundled": False}, path.name)
    # What the folder's own files say is not written twice.
    found |= {**_of_folder(place), "bundled": True}
    return check_card(found, f"{name}/card.json")


def describe(preset: str | Path) -> dict[str, Any]:
    """What is known of a preset given by name or as a folder; of a folder, its sizes only.

    Raises:
        PresetError: as `folder` does; but a published preset need not be here.
    """
    name = os.fspath(preset)
    if name in _cards() and (is_bundled(name) or not Path(name).is_dir()):
        return card(name)
    return _of_folder(folder(preset))


def _of_folder(place):
    class_name, config, _ = bundle.read_backbone(place, load_weights=False)
    return {
        "backbone": class_name,
        "dtype": config.pop("dtype", None),
        "architecture": {k: v for k, v in config.items() if k not in ("name", "trainable")},
        "parameters": parameter_count(class_name, config),
    }


def folder(preset: str | Path) -> Path:
    """The folder with a preset's files.

    Args:
        preset: a name of `names()`, or the path of a preset folder.

    Raises:
        PresetAccessError: a published preset whose files are not here.
        PresetError: no such preset or folder; near names are told.
    """
    name = os.fspath(preset)
    if is_bundled(name):
        return root() / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name in _cards():
        raise PresetAccessError(_not_here(name, card(name)))
    scheme, mark, _ = name.partition("://")
    if mark and scheme in SCHEMES:
        raise PresetAccessError(
            f"{name}: this release downloads nothing yet. Download the preset by other means and "
            "give its folder instead."
        )
    if path.exists():
        raise PresetError(f"A preset is a folder, and {path} is a file.")
    if os.sep in name or name.startswith((".", "~")):
        raise PresetError(f"There is no preset folder {path}.")
    raise PresetError(_unknown(name))


def recipe(name_or_path: str | Path) -> dict[str, Any]:
    """A training recipe, by its name in `presets/recipes` or as a JSON file.

    Raises:
        PresetError: there is no such recipe; near names are told.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix == ".json" or path.is_file():
        return bundle.read_json(path.parent, path.name)
    known, name = recipes(), os.fspath(name_or_path)
    if name not in known:
        raise PresetError(
            f"There is no recipe {name!r}.{_nearest(name, known)} "
            f"Recipes: {', '.join(known) or 'none'}; or give a JSON file."
        )
    return bundle.read_json(root() / "recipes", f"{name}.json")


def recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in (root() / "recipes").glob("*.json"))


def _cards():
    """`{name: file}`: `name.json`, or `name/card.json` where the preset itself is there too."""
    published = {path.stem: path for path in root().glob("*.json")}
    return published | {path.parent.name: path for path in root().glob("*/card.json")}


def _unknown(name):
    known = names()
    return (
        f"There is no preset {name!r}.{_nearest(name, known)} `keras-gemma presets` lists all "
        f"{len(known)}; a folder is given by its path."
    )


def _nearest(name, known):
    near = difflib.get_close_matches(name, known, 3, 0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _not_here(name, found):
    handles = " or ".join(found["sources"].values())
    licence = found["licence"]
    return (
        f"{name} is published as {handles} under the {licence['name']}, to be accepted at "
        f"{' or '.join(licence['accept_at'].values())}. This release does not download it; a "
        "later one will. Already downloaded? Give the folder's path instead of the name."
    )
