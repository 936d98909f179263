"""A run of a recipe, repeated and compared with what it came to."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_gemma.training import receipt, run_log
from keras_gemma.training.recipe import run
from keras_gemma.training.recipe_file import recipe_of


def replay(folder: str | Path, on_progress: Callable[[dict], Any] = print) -> list[str]:
    """Run a folder's recipe again, elsewhere; returns what came out otherwise, the first thing first.

    An empty list means: the same data, the same losses in every line of the log, the same weights,
    bit for bit. Where there is a difference, those of versions and machine are told after it.

    Raises:
        ValueError: the folder is of a run that was not of a recipe, or has not ended.
    """
    folder = Path(folder)
    recipe, theirs = recipe_of(folder), receipt.read(folder)
    if "weights_at_end" not in theirs:
        raise ValueError(f"The run in {folder} has not ended. Resume it first.")
    with tempfile.TemporaryDirectory() as place:
        again = Path(place)
        run(recipe, again, on_progress=on_progress)
        ours = receipt.read(again)
        found = [_told(name, theirs[name], ours[name]) for name in ("data", "weights_at_start")]
        found += [_losses(run_log.read(folder), run_log.read(again))]
        found += [_told("weights_at_end", theirs["weights_at_end"], ours["weights_at_end"])]
    found = [difference for difference in found if difference]
    if found:
        here = receipt.environment()
        told = [_told(name, value, here.get(name)) for name, value in theirs["environment"].items()]
        found += [difference for difference in told if difference]
    return found


def _losses(theirs, ours):
    ours = {record["step"]: record["loss"] for record in ours if "loss" in record}
    for record in theirs:
        if "loss" in record and ours.get(record["step"]) != record["loss"]:
            return f"loss at step {record['step']}: {record['loss']} then, {ours.get(record['step'])} now"
    return ""


def _told(name, then, now):
    return f"{name.replace('_', ' ')}: {then} then, {now} now" if then != now else ""
