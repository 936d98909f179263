"""A run in memory: all numbers that the next step depends on, taken out of a model and put back."""

import hashlib
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_gemma import arrays

# A variable of no more numbers is looked at whole; of a larger one, four slices are.
_SMALL, _SLICES = 4096, 4


class Snapshot(NamedTuple):
    """What a checkpoint holds."""

    arrays: Mapping[str, np.ndarray]  # by the names of `variables`
    state: dict[str, Any]  # for JSON: the place in the data, random states, fingerprints


def variables(model: keras.Model) -> dict[str, Any]:
    """Every variable of a run, by a name of its own: weights, optimizer state, metrics, seeds."""
    parts = {
        "weights": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    return {
        f"{part}/{place}/{variable.path}": variable
        for part, found in parts.items()
        for place, variable in enumerate(found)
    }


def sync(model: keras.Model) -> None:
    """Put the values of the last step into the variables: while `fit` runs, JAX holds them apart."""
    put_back = getattr(model, "jax_state_sync", None)
    if put_back is not None:
        put_back()


def frozen(model: keras.Model) -> dict[str, str]:
    """Fingerprints of the variables that training leaves alone, by name.

    They are of a few slices of each: enough to know a base by, and to see that something has
    changed after all.
    """
    return {
        name: sample(variable)
        for name, variable in variables(model).items()
        if not _changes(name, variable)
    }


def take(model: keras.Model, base: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Copies of all variables but those of `base`, what `frozen` said when the run began.

    One of these that has changed since is copied, too.
    """
    sync(model)
    return {
        name: np.array(arrays.fetch(variable))
        for name, variable in variables(model).items()
        if name not in base or sample(variable) != base[name]
    }


def metrics(model: keras.Model) -> dict[str, np.ndarray]:
    """Copies of the metrics' variables alone, by the names that they have in `take`."""
    sync(model)
    return {
        name: np.array(arrays.fetch(variable))
        for name, variable in variables(model).items()
        if name.startswith("metrics/")
    }


def are_finite(values: Mapping[str, np.ndarray]) -> bool:
    """Whether the weights among what `take` took are numbers, all of them."""
    return all(
        np.isfinite(array).all() for name, array in values.items() if name.startswith("weights/")
    )


def put(model: keras.Model, values: Mapping[str, np.ndarray], part: str = "") -> None:
    """Give the variables whose names begin with `part` what `take` took."""
    for name, variable in variables(model).items():
        if name in values and name.startswith(part):
            arrays.place(variable, values[name])


def difference(model: keras.Model, values: Mapping[str, Any], base: Mapping[str, str]) -> str:
    """In what a run differs from this model, in a sentence; empty if in nothing.

    Args:
        values: of each stored variable something that has a shape.
        base: of each that is not stored, its fingerprint.
    """
    ours = variables(model)
    for part in ("weights", "optimizer"):
        stored, here = ([n for n in names if n.startswith(part)] for names in (values | base, ours))
        if len(stored) != len(here):
            return f"its {part} are {len(stored)} variables, here they are {len(here)}"
    theirs = {_place(name): name for name in values | base}
    for name, variable in ours.items():
        stored = theirs.get(_place(name))
        if stored in values and tuple(values[stored].shape) != tuple(variable.shape):
            shapes = f"{tuple(values[stored].shape)}, here {tuple(variable.shape)}"
            return f"{variable.path} has shape {shapes}"
        if stored in base and sample(variable) != base[stored]:
            return f"{variable.path}, which is not trained, has other numbers here"
    return ""


def sample(variable: Any) -> str:
    """A fingerprint of a variable, from all of it if it is small, else from four slices."""
    values = variable.value
    if not _is_small(variable):
        rows = variable.shape[0]
        places = np.unique(np.linspace(0, rows - 1, _SLICES).astype("int32"))
        values = keras.ops.take(values, places, axis=0)
        values = keras.ops.cast(values, "float32") if "float" in variable.dtype else values
        return _digest(np.asarray(keras.ops.convert_to_numpy(values)))
    return _digest(arrays.fetch(variable))


def fingerprint(values: Mapping[str, np.ndarray], base: Mapping[str, str]) -> str:
    """One for all weights: of every number that was taken, and of the base."""
    digest = hashlib.sha256("".join(base.values()).encode())
    for name, array in values.items():
        if name.startswith("weights/"):
            digest.update(np.ascontiguousarray(array).reshape(-1).view("uint8"))
    return digest.hexdigest()


def random_states() -> dict[str, Any]:
    """Where Python's, NumPy's and the backend's generators stand; those of layers are variables."""
    backend = arrays.generator_state()
    kind, keys, place, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), place, has_gauss, gauss],
        "backend": None if backend is None else backend.tobytes().hex(),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Let these generators go on from there."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(states["numpy"]))
    if states["backend"] is not None:
        arrays.set_generator_state(np.frombuffer(bytes.fromhex(states["backend"]), "uint8").copy())


def _changes(name, variable):
    return variable.trainable or not name.startswith("weights/") or _is_small(variable)


def _is_small(variable):
    return int(np.prod(variable.shape)) <= _SMALL


def _place(name):
    """Its part and number: paths differ by the names that Keras counts up."""
    return tuple(name.split("/", 2)[:2])


def _digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view("uint8")).hexdigest()[:16]
