"""Which published presets have the shapes of something at hand."""

from collections.abc import Callable, Mapping
from typing import Any

from keras_gemma.presets import registry
from keras_gemma.presets.sizes import weight_shapes

# What an option is where a configuration leaves it out.
_DEFAULTS = {
    "query_head_dim_normalize": True,
    "use_query_key_norm": True,
    "layer_norm_epsilon": 1e-6,
    "dropout": 0,
    "sliding_window_size": 4096,
    "local_rope_scaling_factor": 1.0,
    "global_rope_scaling_factor": 1.0,
}
# They change no number that comes out of the text model.
_ASIDE = ("name", "trainable", "dtype", "dropout", "image_size", "vision_encoder")


def looks_like(backbone: str, config: Mapping[str, Any]) -> list[str]:
    """The published presets of that architecture, base models first.

    >>> from keras_gemma.presets import card
    >>> looks_like("GemmaBackbone", card("gemma_2b_en")["architecture"])[:2]
    ['gemma_2b_en', 'code_gemma_1.1_2b_en']
    """
    given = _whole(config)
    return [
        name
        for name, card in _published().items()
        if card["backbone"] == backbone and _whole(card["architecture"]) == given
    ]


def hint(fits: Callable[[str, Mapping[str, Any]], bool]) -> str:
    """A sentence that names the published preset that `fits`, with the others of its shapes; or "".

    >>> hint(lambda backbone, config: config["hidden_dim"] == 3072)
    ' It looks like gemma_7b_en.'

    Args:
        fits: is asked about each backbone and its configuration.
    """
    asked: dict[str, bool] = {}
    for name, card in _published().items():
        shapes = repr(weight_shapes(card["backbone"], card["architecture"]))
        if shapes not in asked:
            asked[shapes] = fits(card["backbone"], card["architecture"])
            if asked[shapes]:
                return f" It looks like {name}."
    return ""


def families(vocabulary_size: int) -> list[str]:
    """The families whose vocabulary has that many pieces.

    >>> families(256_000)
    ['CodeGemma', 'CodeGemma 1.1', 'Gemma 1', 'Gemma 1.1', 'Gemma 2', 'ShieldGemma']
    """
    cards = _published().values()
    sizes = {(c["family"], c["architecture"]["vocabulary_size"]) for c in cards}
    return sorted({family for family, size in sizes if size == vocabulary_size})


def _published():
    """Cards by name; where several have one architecture, the base model stands first."""
    cards = {n: registry.card(n) for n in registry.names() if not registry.is_bundled(n)}
    return dict(sorted(cards.items(), key=lambda item: (item[1]["kind"] != "base", item[0])))


def _whole(config):
    """The configuration with nothing left out, for comparison."""
    told = {name: value for name, value in config.items() if name not in _ASIDE}
    if not told.get("use_sliding_window_attention"):
        told.pop("sliding_window_size", None)
    whole = _DEFAULTS | told
    return {name: value for name, value in whole.items() if value not in (None, False)}
