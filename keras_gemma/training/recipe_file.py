"""What the file of a recipe may hold, and the recipe of a run, in its folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_gemma.presets import registry

# What a recipe with `data` may hold; what is not in it has the value here, `...` must be there.
FIELDS: dict[str, Any] = {
    "name": None,
    "description": None,
    "needs": None,  # for people: memory and time
    "yields": None,
    "seed": ...,
    "start": ...,  # a preset
    "dtype": None,  # of its weights; as they are stored if left out
    "data": ...,  # a file that keras_gemma.data.read reads
    "skip_bad": False,  # whether its rows that are wrong are left out, and counted
    "validation": 0.0,  # share of it that is held out
    "row_length": ...,  # tokens
    "too_long": None,  # for what is longer: "cut", "split", "drop", "error"; else as the preset says
    "pack": False,
    "batch_size": ...,
    "epochs": 1,
    "tokens": None,  # places to train on, instead of epochs
    "quantize": None,  # "int8": QLoRA
    "lora": None,  # {"rank": 8, "alpha": 16, "targets": ["query", "value"]}
    "optimizer": ...,  # {"name": "AdamW", "learning_rate": 2e-4, "schedule": "cosine", …}
    "accumulate": 1,  # batches in an update
    "remat": None,
    "saved_dtype": None,
    "check_memory": True,  # whether a step that by estimate has no room is refused
}
_TEXT = "a text", lambda x: isinstance(x, str) and x != ""
_WHOLE = "a whole number above 0", lambda x: type(x) is int and x > 0
_YES = "true or false, as JSON writes them", lambda x: isinstance(x, bool)
# What each may be; `None` is as good as left out where it stands above.
_AWAITED: dict[str, Any] = {
    "seed": ("a whole number from 0 on", lambda x: type(x) is int and x >= 0),
    "start": _TEXT,
    "dtype": _TEXT,
    "data": _TEXT,
    "skip_bad": _YES,
    "validation": ("a share from 0 to 1", lambda x: type(x) in (int, float) and 0 <= x < 1),
    "row_length": _WHOLE,
    "too_long": _TEXT,
    "pack": _YES,
    "batch_size": _WHOLE,
    "epochs": _WHOLE,
    "tokens": _WHOLE,
    "quantize": _TEXT,
    "lora": ('an object, as {"rank": 8}', lambda x: isinstance(x, Mapping)),
    "optimizer": (
        'an object with a learning_rate, as {"learning_rate": 2e-4}',
        lambda x: isinstance(x, Mapping) and "learning_rate" in x,
    ),
    "accumulate": _WHOLE,
    "remat": _YES,
    "saved_dtype": _TEXT,
    "check_memory": _YES,
}


def checked(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with all fields.

    >>> checked({"start": "gemma_2b_en"})
    Traceback (most recent call last):
    ValueError: The recipe lacks seed, data, row_length, batch_size, optimizer.

    Raises:
        ValueError: a field is unknown, lacking, or none of what it may be.
    """
    if unknown := sorted(set(recipe) - set(FIELDS)):
        raise ValueError(f"The recipe has {', '.join(unknown)}, and may have {', '.join(FIELDS)}.")
    if lacking := [n for n, value in FIELDS.items() if value is ... and n not in recipe]:
        raise ValueError(f"The recipe lacks {', '.join(lacking)}.")
    settings = {**FIELDS, **recipe}
    for name, (awaited, is_right) in _AWAITED.items():
        value = settings[name]
        if not is_right(value) and not (value is None and FIELDS[name] is None):
            raise ValueError(f"{name} of the recipe must be {awaited}, not {value!r}.")
    batch = settings["batch_size"] * settings["row_length"]
    if settings["tokens"] and settings["tokens"] < batch:
        raise ValueError(
            f"tokens={settings['tokens']} of the recipe are less than one batch, batch_size times "
            f"row_length: {batch}. Raise tokens, or lower one of these."
        )
    return settings


def located(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with paths that mean the same from any folder."""
    found = dict(recipe)
    if "data" in found:
        found["data"] = str(Path(found["data"]).expanduser().resolve())
    if "start" in found and not registry.is_bundled(found["start"]):
        path = Path(found["start"]).expanduser()
        found["start"] = str(path.resolve()) if path.exists() else found["start"]
    return found


def recipe_of(out: Path) -> dict[str, Any]:
    """The recipe of a run.

    Raises:
        ValueError: there is none in that folder.
    """
    try:
        return json.loads((out / "recipe.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{out} has no recipe.json: it is not of `keras-gemma train`. A run of your own script "
            "goes on when the script runs again, with Checkpoint(..., resume=True)."
        ) from None


def keep_recipe(recipe: Mapping[str, Any], out: Path, resume: bool) -> None:
    """Write the recipe into the folder of the run that begins, or see that it is the one there.

    The folder's lock is held meanwhile, and until the run ends: no other may begin in between.

    Raises:
        ValueError: the folder holds a run already, or one of another recipe.
    """
    path = out / "recipe.json"
    if resume and path.exists():
        stored = located(recipe_of(out))
        for key in {**stored, **recipe}:
            if stored.get(key) != recipe.get(key):
                raise ValueError(
                    f"The run in {out} is of another recipe: {key} is {stored.get(key)} there, "
                    f"{recipe.get(key)} here. Resume it as it began, or choose another folder."
                )
        return
    if (out / "checkpoints").exists() and not resume:
        raise ValueError(f"{out} holds a run already. Resume it, or choose another folder.")
    part = path.with_name("recipe.json.part")
    part.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
