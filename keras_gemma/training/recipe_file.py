"""The recipe of a run, in its folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_gemma.training.run_lock import run_lock


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

    Raises:
        ValueError: the folder holds a run already, or one of another recipe.
    """
    with run_lock(out):
        if resume and (out / "recipe.json").exists():
            stored = recipe_of(out)
            for key in {**stored, **recipe}:
                if stored.get(key) != recipe.get(key):
                    raise ValueError(
                        f"The run in {out} is of another recipe: {key} is {stored.get(key)} there, "
                        f"{recipe.get(key)} here. Resume it as it began, or choose another folder."
                    )
        if (out / "checkpoints").exists() and not resume:
            raise ValueError(f"{out} holds a run already. Resume it, or choose another folder.")
        (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
