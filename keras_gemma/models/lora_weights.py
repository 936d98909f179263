"""Adapters of a backbone to files and back, and by which base they belong to."""

import hashlib
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (so that NumPy knows "bfloat16")
import numpy as np
from keras import ops

from keras_gemma.conversion import peft_adapter
from keras_gemma.conversion.adapters import Adapter
from keras_gemma.conversion.keras_hub import lora_file
from keras_gemma.layers import Dense
from keras_gemma.presets import BadPresetError

FORMATS = "keras_hub", "peft"


def save(backbone: Any, path: Path, name: str, format: str | None, base: str | None) -> None:
    """Write one adapter; see `save_lora_weights`."""
    if format is None and str(path).endswith(lora_file.SUFFIX):
        format = "keras_hub"
    if format not in FORMATS or (format == "keras_hub") != str(path).endswith(lora_file.SUFFIX):
        raise ValueError(
            f"Give a file that ends in {lora_file.SUFFIX}, or a folder and format='peft'; received "
            f"{str(path)!r} and format={format!r}."
        )
    layers = {kernel_path(layer): layer for layer in backbone._layers_of(name)}
    adapted = {place: layer.branches[name].fetch() for place, layer in layers.items()}
    if format == "keras_hub":
        made = Adapter(adapted, fingerprint(backbone))
        return lora_file.write(path, made, keras_hub_layers(backbone))
    has_post_norms = backbone.config.use_post_ffw_norm
    peft_adapter.write(path, adapted, kernel_shapes(backbone), has_post_norms, base)


def load(backbone: Any, path: Path, name: str, strict: bool) -> None:
    """Read one adapter; see `load_lora_weights`."""
    if path.is_dir():
        has_post_norms = backbone.config.use_post_ffw_norm
        adapter = peft_adapter.read(path, kernel_shapes(backbone), has_post_norms)
    else:
        adapter = lora_file.read(path, keras_hub_layers(backbone))
    layers = {kernel_path(layer): layer for layer in backbone._dense_layers()}
    _check_fit(path, adapter, layers)
    here = fingerprint(backbone)
    if strict and adapter.fingerprint not in (None, here):
        raise BadPresetError(
            f"{path} was trained on another base: its fingerprint is {adapter.fingerprint[:12]}, "
            f"and that of this base is {here[:12]}. Load it with the base that it belongs to, or "
            "with strict=False, if this is the same in another precision."
        )
    if name in backbone.lora_names:
        _check_alike(path, adapter, backbone, name)
        backbone.set_lora(name)
    else:
        options = {layers[place].path: stored.options for place, stored in adapter.layers.items()}
        backbone._add_adapter(name, options)
    for place, stored in adapter.layers.items():
        layers[place].branches[name].assign(stored)


def kernel_path(layer: Any) -> str:
    """The path of a dense layer's kernel."""
    return f"{layer.path}/kernel"


def kernel_shapes(backbone: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the dense layers' kernels, quantized or not, by their paths."""
    return {kernel_path(layer): layer.kernel_shape for layer in backbone._dense_layers()}


def keras_hub_layers(backbone: Any) -> list[str]:
    """The kernels' paths at the numbers that KerasHub gives its layers; `""` for the others."""
    layers = [layer for layer in backbone._flatten_layers(include_self=False) if layer.weights]
    return [kernel_path(layer) if isinstance(layer, Dense) else "" for layer in layers]


def fingerprint(backbone: Any) -> str:
    """Tells bases of the same shapes apart: a hash of the middle row of each of their weights.

    Numbers are rounded to bfloat16 first, so that a base has one fingerprint as float32 and as bfloat16.
    """
    made = hashlib.sha256()
    for variable in backbone.weights:
        if variable.name.startswith("lora_"):
            continue
        shape = tuple(variable.shape)
        row = variable[tuple(size // 2 for size in shape[:-1])]
        if "int" not in str(variable.dtype):
            row = ops.cast(row, "float32")
        row = np.asarray(ops.convert_to_numpy(row))
        if row.dtype == "float32":
            row = row.astype("bfloat16")
        made.update(f"{variable.path} {shape} ".encode() + row.tobytes())
    return made.hexdigest()


def _check_fit(path, adapter, layers):
    """Raises unless each layer is there, in the shapes that the adapter has."""
    for place, stored in adapter.layers.items():
        layer = layers[place]
        awaited = layer.adapter_shapes(stored.options)
        parts = {"a": stored.a, "b": stored.b, "magnitude": stored.magnitude}
        found = {part: array.shape for part, array in parts.items() if array is not None}
        if found != awaited:
            raise BadPresetError(
                f"{path}: {place} has {_shapes(found)}; awaited {_shapes(awaited)} for "
                f"{stored.options} and this base's {layer.name} of shape {layer.kernel_shape}. Is it "
                "the adapter of another base?"
            )


def _shapes(parts):
    return ", ".join(f"{part} {shape}" for part, shape in parts.items())


def _check_alike(path, adapter, backbone, name):
    """Raises unless the file has what the adapter of that name is."""
    theirs = {place: stored.options for place, stored in adapter.layers.items()}
    layers = backbone._layers_of(name)
    ours = {kernel_path(layer): layer.branches[name].options for layer in layers}
    if {place: options.form for place, options in theirs.items()} != {
        place: options.form for place, options in ours.items()
    }:
        raise BadPresetError(
            f"{path} holds {_told(theirs)}; the adapter {name!r} here is {_told(ours)}. Load it "
            "under another name=, or delete_lora() the one that is here."
        )


def _told(options_by_place):
    kinds = dict.fromkeys(map(str, options_by_place.values()))
    names = dict.fromkeys(place.split("/")[-2] for place in options_by_place)
    return f"{' and '.join(kinds)} on {', '.join(sorted(names))} of {len(options_by_place)} layers"
