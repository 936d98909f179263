"""From a name, an object or a saved dict to a sampler."""

import difflib
from typing import Any, cast

import keras

from keras_gemma.samplers.base import Sampler
from keras_gemma.samplers.named import (
    GreedySampler,
    MinPSampler,
    RandomSampler,
    TopKSampler,
    TopPSampler,
    TypicalSampler,
)
from keras_gemma.samplers.search import BeamSampler, ContrastiveSampler

_BY_NAME = {
    "greedy": GreedySampler,
    "random": RandomSampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
    "min_p": MinPSampler,
    "typical": TypicalSampler,
    "beam": BeamSampler,
    "contrastive": ContrastiveSampler,
}
_BY_CLASS = {made.__name__: made for made in (Sampler, *_BY_NAME.values())}


def get(identifier: Any) -> Sampler:
    """The sampler that `identifier` stands for.

    Args:
        identifier: `"greedy"`, `"random"`, `"top_k"`, `"top_p"`, `"min_p"`, `"typical"`, `"beam"`
            or `"contrastive"`, for one with its defaults; a `Sampler` or a class of it; or a dict
            made by `serialize`, KerasHub's included.

    Raises:
        ValueError: an unknown name.
        TypeError: something else.

    >>> get("top_k").k
    5
    >>> get({"class_name": "keras_hub>TopPSampler", "config": {"p": 0.5}}).p
    0.5
    """
    if isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Sampler):
        return identifier()
    if isinstance(identifier, dict):
        return deserialize(identifier)
    if isinstance(identifier, str):
        return _found(identifier, _BY_NAME)()
    raise TypeError(
        f"A sampler is a name ({', '.join(_BY_NAME)}) or an object of keras_gemma.samplers, not "
        f"{type(identifier).__module__}.{type(identifier).__qualname__}."
    )


def serialize(sampler: Sampler) -> dict[str, Any]:
    """A dict of plain values that `deserialize` makes an equal sampler of."""
    return cast(dict[str, Any], keras.saving.serialize_keras_object(sampler))


def deserialize(config: dict[str, Any], custom_objects: dict[str, type] | None = None) -> Sampler:
    """The sampler that a dict describes.

    Classes of your own are found in `custom_objects`, or when they are registered by
    `keras.saving.register_keras_serializable`. Nothing is imported by a name in the dict.
    """
    name = str(config.get("registered_name") or config.get("class_name"))
    made = (custom_objects or {}).get(name.split(">")[-1])
    made = made or keras.saving.get_registered_object(name)
    if not (isinstance(made, type) and issubclass(made, Sampler)):
        made = _found(name.split(">")[-1], {**_BY_NAME, **_BY_CLASS})
    return made.from_config(config.get("config") or {})


def _found(name, table):
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name.lower(), table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Unknown sampler {name!r}.{hint} There are: {', '.join(_BY_NAME)}.")
