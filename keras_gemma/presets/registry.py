"""What presets and recipes there are, and where their files lie."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_gemma.presets import bundle, download
from keras_gemma.presets.cards import check_card
from keras_gemma.presets.classes import known_name
from keras_gemma.presets.errors import PresetError
from keras_gemma.presets.handles import SINGLE_FILES, nearest
from keras_gemma.presets.parts import PARTS
from keras_gemma.presets.sizes import parameter_count


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

    Args:
        name: one of `names()`, or one of the card's sources: `"hf://google/gemma-2b-it"`, which may
            also be written `"google/gemma-2b-it"`.

    >>> card("gemma_2b_en")["parameters"]
    2506172416
    >>> card("google/gemma-2b-it") == card("gemma_instruct_2b_en")
    True

    Raises:
        PresetError: there is no such preset; near names are told.
    """
    name = alias(name) or name
    path = _cards().get(name)
    if path is None:
        raise PresetError(_unknown(name))
    place, found = path.parent, bundle.read_json(path.parent, path.name)
    if not is_bundled(name):
        return check_card({**found, "bundled": False}, path.name)
    # What the folder's own files say is not written twice.
    found |= {**_of_folder(place), "bundled": True}
    return check_card(found, f"{name}/card.json")


class PresetsOfFamily:
    """`SomeClass.presets`, as KerasHub has it: the cards of the presets that a class is for, by name.

    >>> class Gemma3Backbone:
    ...     presets = PresetsOfFamily()
    >>> Gemma3Backbone.presets["gemma3_1b"]["description"]
    'Gemma 3 with 1 billion parameters in 26 layers: continues a text.'
    """

    def __get__(self, instance: Any, owner: type) -> dict[str, dict[str, Any]]:
        family = "Gemma3" if known_name(owner).startswith("Gemma3") else "Gemma"
        return {
            name: card
            for name, card in _described().items()
            if card["backbone"] == f"{family}Backbone"
        }


@functools.cache
def _described():
    return {name: card(name) for name in names()}


def alias(handle: str) -> str | None:
    """The name of the preset that has that source, if there is one.

    >>> alias("kaggle://keras/gemma/keras/gemma_2b_en/3"), alias("google/gemma-2b")
    ('gemma_2b_en', 'gemma_2b_en')
    """
    if "/" not in handle:
        return None
    written = handle if "://" in handle else f"hf://{handle}"
    return _by_source().get(written)


def _by_source():
    return {
        source: name
        for name, path in _cards().items()
        for source in bundle.read_json(path.parent, path.name).get("sources", {}).values()
    }


def _of_folder(place):
    class_name, config = bundle.read_backbone(place)
    return {
        "backbone": class_name,
        "dtype": config.pop("dtype", None),
        "architecture": {k: v for k, v in config.items() if k not in ("name", "trainable")},
        "parameters": parameter_count(class_name, config),
    }


def folder(
    preset: str | Path, parts: Iterable[str] = PARTS, *, progress: Any = None, say: Any = None
) -> Path:
    """The folder with a preset's files, fetched where they are not on this machine.

    Args:
        preset: a name of `names()`; the path of a preset folder, or of a .gguf or .ckpt file; or a
            handle such as `hf://google/gemma-2b-it`. A folder goes before a handle, a bundled
            preset before a folder.
        parts: of `"config"`, `"tokenizer"` and `"weights"`, those that are needed.
        progress: is told how far each file is, as `download.fetch` does.
        say: is told in words what takes its time.

    Raises:
        PresetAccessError: a published preset without access to it, or without a network.
        PresetError: no such preset or folder; near names are told.
    """
    name = os.fspath(preset)
    if is_bundled(name):
        return root() / name
    if "://" not in name:
        path = Path(name).expanduser()
        if path.is_dir() or (path.is_file() and path.suffix in SINGLE_FILES):
            return path
        if path.exists():
            raise PresetError(
                f"A preset is a folder, or a file of {' or '.join(SINGLE_FILES)}, and {path} is "
                "neither."
            )
        if name not in _cards() and not alias(name):
            if os.sep in name or name.startswith((".", "~")):
                raise PresetError(f"There is no preset folder {path}.{_hub_hint(name)}")
            raise PresetError(_unknown(name))
    found = _card_of(name)
    notes = {} if say is None else {"say": say}
    return download.fetch(
        handle(name), parts, card=found, known=_by_source(), progress=progress, **notes
    )


def handle(preset: str | Path) -> str:
    """Where a preset that lies elsewhere is fetched from: of a name, the source that is preferred.

    >>> handle("google/gemma-2b")
    'hf://google/gemma-2b'
    """
    name = os.fspath(preset)
    if "://" in name:
        return name
    return f"hf://{name}" if "/" in name else download.choose(card(name)["sources"])


def _card_of(name):
    known = alias(name) or name
    return card(known) if known in _cards() else None


def recipe(name_or_path: str | Path) -> dict[str, Any]:
    """A training recipe, by its name in `presets/recipes` or as a JSON file.

    The file that its `data` names is taken from beside it, if it lies there.

    Raises:
        PresetError: there is no such recipe; near names are told.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix == ".json" or path.is_file():
        return _with_data(bundle.read_json(path.parent, path.name), path.parent)
    known, name = recipes(), os.fspath(name_or_path)
    if name not in known:
        raise PresetError(
            f"There is no recipe {name!r}.{nearest(name, known)} "
            f"Recipes: {', '.join(known) or 'none'}; or give a JSON file."
        )
    folder = root() / "recipes"
    return _with_data(bundle.read_json(folder, f"{name}.json"), folder)


def _with_data(recipe, folder):
    if "data" in recipe and (beside := folder / recipe["data"]).is_file():
        recipe["data"] = str(beside.resolve())
    return recipe


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
        f"There is no preset {name!r}.{nearest(name, known)} `keras-gemma presets` lists all "
        f"{len(known)}; a folder is given by its path."
    )


def _hub_hint(name):
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        return ""
    near = nearest(name, [source.removeprefix("hf://") for source in _by_source()])
    return f"{near} A repository of the Hugging Face hub is written hf://{name}."
