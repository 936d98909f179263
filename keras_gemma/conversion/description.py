"""What a preset is, without its weights: from its card, or from what lies in its folder or file."""

import os
from pathlib import Path
from typing import Any

from keras_gemma.presets import registry
from keras_gemma.presets.lookalikes import looks_like
from keras_gemma.presets.sizes import parameter_count

_NOT_SIZES = ("name", "trainable", "dtype")


def describe(preset: str | Path) -> dict[str, Any]:
    """What is known of a preset given by name, handle, folder or file; of the latter, its sizes, and the
    published presets that have the same.

    >>> describe("gemma_2b_en")["architecture"]["num_layers"]
    18

    Raises:
        PresetError: there is no such preset, or its files are damaged; but a preset that has a
            card need not be here.
    """
    name = os.fspath(preset)
    known = registry.alias(name) or name
    if known in registry.names() and (registry.is_bundled(known) or not Path(name).is_dir()):
        return registry.card(known)
    place = registry.folder(preset, ("config",))
    from keras_gemma.conversion.formats import format_of, open_checkpoint  # brings Keras

    opened = open_checkpoint(place, load_weights=False)
    return {
        "format": format_of(place),
        "looks_like": looks_like(opened.backbone, opened.config),
        "backbone": opened.backbone,
        "dtype": opened.config.get("dtype"),
        "architecture": {k: v for k, v in opened.config.items() if k not in _NOT_SIZES},
        "parameters": parameter_count(opened.backbone, opened.config),
    }
