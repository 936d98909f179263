"""What the fields of a backbone's configuration may hold.

A file from elsewhere is read by this closed table: nothing in it is imported or called by name,
and no size is believed before it is seen to be sane.
"""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from keras_gemma.presets.errors import BadPresetError
from keras_gemma.presets.policies import FLOATS, float_policy


class Whole(NamedTuple):
    """A whole number."""

    least: int
    most: int

    def fits(self, value):
        return type(value) is int and self.least <= value <= self.most

    def __str__(self):
        return f"a whole number from {self.least} to {self.most}"


class Real(NamedTuple):
    """A number, or `null` where `may_miss`."""

    least: float
    most: float
    may_miss: bool = False

    def fits(self, value):
        if value is None:
            return self.may_miss
        return type(value) in (int, float) and self.least <= value <= self.most

    def __str__(self):
        return f"a number from {self.least} to {self.most}" + " or null" * self.may_miss


class OneOf(NamedTuple):
    """One of a few values."""

    values: tuple

    def fits(self, value):
        return any(type(value) is type(other) and value == other for other in self.values)

    def __str__(self):
        return "one of " + ", ".join(map(repr, self.values))


SWITCH = OneOf((True, False))
OFF = OneOf((False, None))
DTYPES = FLOATS

SIZES = {
    "vocabulary_size": Whole(1, 2**22),
    "num_layers": Whole(1, 512),
    "num_query_heads": Whole(1, 1024),
    "num_key_value_heads": Whole(1, 1024),
    "hidden_dim": Whole(1, 2**17),
    "intermediate_dim": Whole(1, 2**21),
    "head_dim": Whole(2, 4096),
}
OPTIONS = {
    "trainable": SWITCH,
    "layer_norm_epsilon": Real(0, 0.1),
    "dropout": Real(0, 0.999),
    "query_head_dim_normalize": SWITCH,
    "use_post_ffw_norm": SWITCH,
    "use_post_attention_norm": SWITCH,
    "attention_logit_soft_cap": Real(1e-6, 1e6, may_miss=True),
    "final_logit_soft_cap": Real(1e-6, 1e6, may_miss=True),
    "use_sliding_window_attention": SWITCH,
    "sliding_window_size": Whole(1, 2**24),
}
# Gemma 3 reads images and makes embeddings elsewhere; here it is the causal text model.
GEMMA3_OPTIONS = {
    "image_size": Real(1, 1e5, may_miss=True),
    "use_query_key_norm": SWITCH,
    "local_rope_scaling_factor": Real(1e-3, 1e4),
    "global_rope_scaling_factor": Real(1e-3, 1e4),
    "vision_encoder": OneOf((None,)),
    "use_bidirectional_attention": OFF,
    "is_embedding_model": OFF,
    "pooling_intermediate_dim": OneOf((None,)),
    "embedding_dim": OneOf((None,)),
}
TABLES = {
    "GemmaBackbone": SIZES | OPTIONS,
    "Gemma3Backbone": SIZES | OPTIONS | GEMMA3_OPTIONS,
}


def check_backbone(backbone: str, config: Any, where: str) -> dict[str, Any]:
    """The backbone's arguments, each seen to be of its type and range.

    Args:
        backbone: `"GemmaBackbone"` or `"Gemma3Backbone"`.
        config: what the file says.
        where: the file, for the error.

    Returns:
        The arguments; `dtype` is the name of a dtype policy, if there is one.

    Raises:
        BadPresetError: it names the field, what stands there and what may.
    """
    if not isinstance(config, Mapping):
        raise BadPresetError(f"{where}: the configuration of {backbone} must be an object.")
    table = TABLES[backbone]
    for name in SIZES:
        if name not in config:
            raise BadPresetError(f"{where}: {backbone} needs the field {name!r}.")
    checked = {}
    for name, value in config.items():
        if name == "dtype":
            value = float_policy(value, where)
        elif name == "name":
            if not isinstance(value, str) or not 0 < len(value) < 200 or "/" in value:
                raise BadPresetError(f"{where}: name={_shown(value)} is no name of a layer.")
        elif name not in table:
            near = difflib.get_close_matches(str(name), table, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise BadPresetError(f"{where}: {backbone} has no field {_shown(name)}{hint}")
        elif not table[name].fits(value):
            raise BadPresetError(f"{where}: {name}={_shown(value)} must be {table[name]}.")
        checked[name] = value
    _check_together(backbone, checked, where)
    return checked


def _check_together(backbone, config, where):
    heads, groups = config["num_query_heads"], config["num_key_value_heads"]
    if heads % groups:
        raise BadPresetError(
            f"{where}: num_key_value_heads={groups} must divide num_query_heads={heads}."
        )
    if config["head_dim"] % 2:
        raise BadPresetError(f"{where}: head_dim={config['head_dim']} must be even.")
    if backbone == "GemmaBackbone" and config["intermediate_dim"] % 2:
        raise BadPresetError(
            f"{where}: intermediate_dim={config['intermediate_dim']} counts two branches and "
            "must be even."
        )


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
