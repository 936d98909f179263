"""A training run on disk: everything that the next step depends on, in one file."""

import os
from pathlib import Path

import keras
import numpy as np


def save(model: keras.Model, step: int, path: Path) -> None:
    """Write weights, optimizer state and the step; the file appears whole or not at all."""
    arrays = {f"{place}": _bits(v) for place, v in enumerate(_variables(model))}
    paths = np.array([v.path for v in _variables(model)])
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, step=step, paths=paths, **arrays)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def restore(model: keras.Model, path: Path) -> int:
    """Take weights and optimizer state from a file of `save`; returns the step it was made at."""
    model.optimizer.build(model.trainable_variables)
    variables = _variables(model)
    with np.load(path, allow_pickle=False) as stored:
        paths = stored["paths"].tolist()
        if len(paths) != len(variables):
            raise ValueError(
                f"{path} holds {len(paths)} variables, this run has {len(variables)}: it is a "
                "checkpoint of another recipe. Start anew in another folder."
            )
        for place, variable in enumerate(variables):
            value = stored[f"{place}"]
            if value.shape != tuple(variable.shape):
                raise ValueError(
                    f"{path}: {paths[place]} has shape {value.shape}, {variable.path} needs "
                    f"{tuple(variable.shape)}."
                )
            variable.assign(value)
        return int(stored["step"])


def _variables(model):
    return [*model.variables, *model.optimizer.variables]


def _bits(variable):
    """The value as NumPy can store it; float32 holds every bfloat16 exactly."""
    value = keras.ops.convert_to_numpy(variable)
    return (
        value.astype("float32")
        if value.dtype.kind == "V" or "float16" in str(value.dtype)
        else value
    )
