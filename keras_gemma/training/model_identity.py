"""By what the model of a run is known again, beside its weights."""

import json
from collections.abc import Mapping
from typing import Any

import keras

# Names count up in a process, and a schedule's place in the run is of that run.
_PASSING = ("name", "trainable", "dtype", "run")


def model_identity(model: keras.Model) -> dict[str, Any]:
    """What must be equal when a run is resumed: kind, configuration, dtypes, adapters, optimizer."""
    backbone = model.backbone
    options = {name: getattr(model, name) for name in getattr(model, "options", ())}
    adapters = {
        str(layer.branches[layer.active].options)
        for layer in backbone._dense_layers()
        if layer.active
    }
    found = {
        "kind": type(model).__name__,
        **_lasting(backbone.get_config()),
        **options,
        "dtype": backbone.dtype_policy.name,
        "dtypes of weights": sorted({variable.dtype for variable in backbone.variables}),
        "adapters": sorted(adapters),
        "optimizer": _named(_unwrapped(model.optimizer)),
    }
    return _as_json(found)


def optimizer_settings(model: keras.Model) -> dict[str, Any]:
    """What an optimizer was compiled with, and may be compiled with otherwise to go on."""
    settings = _lasting(_unwrapped(model.optimizer).get_config())
    rate = settings["learning_rate"]
    if isinstance(rate, float):
        settings["learning_rate"] = float(f"{rate:.6g}")  # as it was given: it is held in float32
    if isinstance(rate, Mapping):
        settings["learning_rate"] = {**rate, "config": _lasting(rate["config"])}
    return _as_json(settings)


def is_new(model: keras.Model) -> bool:
    """Whether nothing was trained since it was compiled: its learning rate is the one it was given."""
    return int(_unwrapped(model.optimizer).iterations) == 0


def _lasting(config):
    return {name: value for name, value in config.items() if name not in _PASSING}


def _as_json(found):
    """As a checkpoint gives it back; of functions, their names."""
    return json.loads(
        json.dumps(found, default=lambda value: getattr(value, "__name__", str(value)))
    )


def _unwrapped(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


def _named(optimizer):
    """Keras has an AdamW, too."""
    kind = type(optimizer)
    return f"{kind.__name__} of {kind.__module__.split('.')[0]}"
