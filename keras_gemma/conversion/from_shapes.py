"""A backbone's configuration, where a checkpoint has none: from the shapes of its tensors.

Shapes tell the sizes, and which norms there are tells the generation. They don't tell windows, caps
and scales: those are known for each published size, and otherwise stand in a `config.json`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from keras_gemma.presets import bundle
from keras_gemma.presets.errors import BadPresetError
from keras_gemma.presets.fields import check_backbone


class Seen(NamedTuple):
    """What a checkpoint's shapes tell."""

    vocabulary_size: int
    num_layers: int
    hidden_dim: int
    ffw_dim: int  # of one branch
    query_width: int  # query heads x head width
    key_width: int  # key heads x head width
    head_dim: int | None  # None where heads lie in one axis together
    post_norms: bool  # Gemma 2 and 3
    query_key_norms: bool  # Gemma 3


class Published(NamedTuple):
    """What shapes don't tell, of one published size."""

    head_dim: int = 256
    window: int = 4096
    scaled_by_width: bool = False  # queries by (width / heads) ** -0.5, not by head width
    rope_scaling: float = 1.0


# By (layers, width, width of one feed-forward branch).
PUBLISHED = {
    (18, 2048, 16384): Published(),  # Gemma 2B
    (28, 3072, 24576): Published(),  # Gemma 7B
    (26, 2304, 9216): Published(),  # Gemma 2 2B
    (42, 3584, 14336): Published(),  # Gemma 2 9B
    (46, 4608, 36864): Published(head_dim=128, scaled_by_width=True),  # Gemma 2 27B
    (18, 640, 2048): Published(window=512),  # Gemma 3 270M
    (26, 1152, 6912): Published(window=512),  # Gemma 3 1B
    (34, 2560, 10240): Published(window=1024, rope_scaling=8.0),  # Gemma 3 4B
    (48, 3840, 15360): Published(window=1024, rope_scaling=8.0),  # Gemma 3 12B
    (62, 5376, 21504): Published(128, 1024, True, 8.0),  # Gemma 3 27B
}
_SIZE_OF_HEADS = 256  # of every Gemma but the two of 27B

# The names that DeepMind's and Hugging Face's configurations share; a few have two.
_READ = {
    "head_dim": "head_dim",
    "rms_norm_eps": "layer_norm_epsilon",
    "sliding_window": "sliding_window_size",
    "sliding_window_size": "sliding_window_size",
    "attn_logit_softcapping": "attention_logit_soft_cap",
    "final_logit_softcapping": "final_logit_soft_cap",
    "rope_scaling_factor": "global_rope_scaling_factor",
    "query_pre_attn_scalar": "query_pre_attn_scalar",
}


# What a backbone is where its configuration does not say.
DEFAULTS = {
    "use_query_key_norm": True,
    "query_head_dim_normalize": True,
    "use_post_ffw_norm": False,
    "use_post_attention_norm": False,
    "attention_logit_soft_cap": None,
    "final_logit_soft_cap": None,
    "use_sliding_window_attention": False,
    "sliding_window_size": 4096,
    "local_rope_scaling_factor": 1.0,
    "global_rope_scaling_factor": 1.0,
    "layer_norm_epsilon": 1e-6,
}


def architecture(
    seen: Seen, place: Path, said: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """`(class name, arguments)` of the backbone.

    Args:
        seen: the shapes.
        place: of the checkpoint, for errors.
        said: what its configuration says, if it has one; only what shapes don't tell is taken.

    Raises:
        BadPresetError: shapes don't fit together, or don't tell enough: it says what to add.
    """
    known = PUBLISHED.get((seen.num_layers, seen.hidden_dim, seen.ffw_dim))
    options = {_READ[name]: value for name, value in (said or {}).items() if name in _READ}
    windowed = options.get("sliding_window_size", 1) is not None
    options = {name: value for name, value in options.items() if value is not None or "cap" in name}
    head_dim = options.pop("head_dim", None) or seen.head_dim
    head_dim = head_dim or (known.head_dim if known else _SIZE_OF_HEADS)
    if type(head_dim) is not int or head_dim < 1 or seen.query_width % head_dim:
        raise _untold(place, f"a query width of {seen.query_width}", "head_dim", head_dim)
    scalar = options.pop("query_pre_attn_scalar", None)
    sizes = {
        "vocabulary_size": seen.vocabulary_size,
        "num_layers": seen.num_layers,
        "num_query_heads": seen.query_width // head_dim,
        "num_key_value_heads": max(1, seen.key_width // head_dim),
        "hidden_dim": seen.hidden_dim,
        "intermediate_dim": seen.ffw_dim * (1 if seen.query_key_norms else 2),
        "head_dim": head_dim,
    }
    backbone = "Gemma3Backbone" if seen.query_key_norms else "GemmaBackbone"
    if backbone == "GemmaBackbone":
        options.pop("global_rope_scaling_factor", None)
    if not seen.post_norms:
        options = {k: v for k, v in options.items() if k == "layer_norm_epsilon"}
    else:
        options = {**_untold_options(seen, place, known, options, windowed), **options}
        by_width = known.scaled_by_width if known else False
        if scalar is not None:
            per_head = sizes["hidden_dim"] // sizes["num_query_heads"]
            if scalar not in (head_dim, per_head):
                raise BadPresetError(
                    f"{place}: query_pre_attn_scalar={str(scalar)[:40]} must be the width of a head "
                    f"({head_dim}) or of the model per head ({per_head})."
                )
            by_width = scalar != head_dim
        options["query_head_dim_normalize"] = not by_width
    return backbone, check_backbone(backbone, {**sizes, **options}, str(place))


def said_beside(place: Path) -> dict[str, Any] | None:
    """The `config.json` in a folder, if there is one."""
    return bundle.read_json(place, "config.json") if bundle.has(place, "config.json") else None


def told(backbone: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The other way: a configuration in DeepMind's names, to be written beside the tensors.

    >>> sizes = dict(vocabulary_size=8, num_layers=1, num_query_heads=2, num_key_value_heads=1,
    ...              hidden_dim=4, intermediate_dim=6, head_dim=2)
    >>> told("GemmaBackbone", sizes)["intermediate_size"]
    3
    """
    per_head = config["hidden_dim"] // config["num_query_heads"]
    normal = config.get("query_head_dim_normalize", True)
    found = {
        "vocab_size": config["vocabulary_size"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_query_heads"],
        "num_key_value_heads": config["num_key_value_heads"],
        "hidden_size": config["hidden_dim"],
        "intermediate_size": config["intermediate_dim"]
        // (2 if backbone == "GemmaBackbone" else 1),
        "head_dim": config["head_dim"],
        "rms_norm_eps": config.get("layer_norm_epsilon", 1e-6),
    }
    if config.get("use_post_ffw_norm") or config.get("use_post_attention_norm"):
        windowed = config.get("use_sliding_window_attention", False)
        found |= {
            "sliding_window_size": config.get("sliding_window_size", 4096) if windowed else None,
            "attn_logit_softcapping": config.get("attention_logit_soft_cap"),
            "final_logit_softcapping": config.get("final_logit_soft_cap"),
            "query_pre_attn_scalar": config["head_dim"] if normal else per_head,
        }
    if backbone == "Gemma3Backbone":
        found["rope_scaling_factor"] = config.get("global_rope_scaling_factor", 1.0)
    return found


def check_told(backbone: str, config: Mapping[str, Any], place: Path) -> None:
    """See that what `told` says, and shapes, give the same model again.

    Raises:
        ValueError: DeepMind's Gemma has no such option; the field is named.
    """
    post_norms = any(config.get(f"use_post_{name}_norm") for name in ("attention", "ffw"))
    norms = backbone == "Gemma3Backbone" and config.get("use_query_key_norm", True)
    seen = Seen(
        config["vocabulary_size"],
        config["num_layers"],
        config["hidden_dim"],
        config["intermediate_dim"] // (2 if backbone == "GemmaBackbone" else 1),
        config["num_query_heads"] * config["head_dim"],
        config["num_key_value_heads"] * config["head_dim"],
        config["head_dim"],
        post_norms,
        norms,
    )
    same, again = architecture(seen, place, told(backbone, config))
    for name, default in DEFAULTS.items():
        given = config.get(name, default)
        if name == "sliding_window_size" and not config.get("use_sliding_window_attention"):
            continue
        if same != backbone or again.get(name, default) != given:
            raise ValueError(
                f"DeepMind's Gemma has no {backbone} with {name}={given!r}, so {place.name} can't "
                "say it. Choose another format."
            )


def _untold_options(seen, place, known, options, windowed):
    if known is None and windowed and "sliding_window_size" not in options:
        shape = f"{seen.num_layers} layers of width {seen.hidden_dim}"
        raise _untold(place, f"{shape} with norms after attention", "sliding_window_size")
    found = {
        "use_post_ffw_norm": True,
        "use_post_attention_norm": True,
        "use_sliding_window_attention": windowed,
    }
    if known:
        found["sliding_window_size"] = known.window
    if seen.query_key_norms:
        scaling = known.rope_scaling if known else 1.0
        return {**found, "image_size": None, "global_rope_scaling_factor": scaling}
    return {**found, "attention_logit_soft_cap": 50.0, "final_logit_soft_cap": 30.0}


def _untold(place, what, field, tried=None):
    not_this = f" ({field}={tried} does not fit)" if tried else ""
    return BadPresetError(
        f"{place}: {what} is of no published Gemma{not_this}, and shapes don't tell the rest. "
        f'Put a config.json beside it that says "{field}".'
    )
