"""A run that comes to no number: what is left of it, and what can be done."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_gemma.models.fit_run import FitRun


def told(what: str, run: FitRun, folder: Path, last: Path | None) -> str:
    """Leave the batches of the last step in the folder; the error that names them and what to do.

    Args:
        what: what is no number.
        last: the newest checkpoint; all are of finite numbers.
    """
    good = f"the last good checkpoint is {last}" if last else "there is no checkpoint before it"
    return f"{what} at step {run.step}; {_where(run, folder)}, and {good}. {_advice(folder, last)}"


def _where(run, folder):
    if not isinstance(run.data, keras.utils.PyDataset):
        return "its batch came from a stream or from arrays and is not kept"
    paths = []
    for back in reversed(range(run.made)):
        paths.append(folder / f"nan_step_{run.step - back}.npz")
        _save(run.data[run.batch - 1 - back], paths[-1])
    if len(paths) == 1:
        return f"its batch lies in {paths[0]}"
    return f"its batch is one of the {run.made} from {paths[0]} to {paths[-1].name}"


def _save(batch, path):
    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
    parts: dict[str, Any] = dict(inputs) if isinstance(inputs, dict) else {"inputs": inputs}
    parts |= {"labels": labels, "weights": weights}
    np.savez(path, **{name: np.asarray(part) for name, part in parts.items()})


def _advice(folder, last):
    helps = "A lower learning rate or global_clipnorm=1.0 often helps"
    recipe = folder / "recipe.json"
    if recipe.exists():
        rate = json.loads(recipe.read_text(encoding="utf-8"))["optimizer"]["learning_rate"]
        return (
            f"{helps}: `keras-gemma train {recipe} --set optimizer.learning_rate={rate / 3:.1g} --out "
            f"{folder}_2` begins anew with one; `keras-gemma train --resume {folder}` only comes here "
            "again."
        )
    if last is None:
        return f"{helps}: compile with one, and begin anew in this folder."
    return (
        f"{helps}: compile with one, and go on from there with Checkpoint({str(folder)!r}, "
        "resume=True), or begin anew in another folder."
    )
