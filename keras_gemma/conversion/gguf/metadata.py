"""A backbone's arguments as keys of a GGUF file, and back: Gemma, Gemma 2 and Gemma 3 (text).

The keys are those of llama.cpp's converter. What they can't say follows from the architecture,
which `FAMILIES` lists; a model that differs from it is refused, not written as another one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.config import published_context
from keras_gemma.conversion.gguf.vocabulary import vocabulary_metadata
from keras_gemma.presets.errors import BadPresetError
from keras_gemma.presets.fields import check_backbone


class Family(NamedTuple):
    """What belongs to a GGUF architecture without being written in the file."""

    backbone: str
    branches: int  # of the feed-forward layer, as the backbone's intermediate_dim counts them
    fixed: dict[str, Any]  # arguments that are always so
    period: int = 1  # every so manyth layer has no window
    large: int = -1  # the number of layers whose query scale is (hidden / heads) ** -0.5
    rope_base: float = 10_000.0


_NORMS = {"use_post_ffw_norm": True, "use_post_attention_norm": True}
FAMILIES = {
    "gemma": Family(
        "GemmaBackbone",
        2,
        {
            "use_post_ffw_norm": False,
            "use_post_attention_norm": False,
            "attention_logit_soft_cap": None,
            "final_logit_soft_cap": None,
            "use_sliding_window_attention": False,
        },
    ),
    "gemma2": Family(
        "GemmaBackbone", 2, {**_NORMS, "use_sliding_window_attention": True}, period=2, large=46
    ),
    "gemma3": Family(
        "Gemma3Backbone",
        1,
        {
            **_NORMS,
            "use_query_key_norm": True,
            "attention_logit_soft_cap": None,
            "local_rope_scaling_factor": 1.0,
        },
        period=6,
        large=62,
        rope_base=1_000_000.0,
    ),
}
# Our argument, the key without the architecture in front.
SIZES = (
    ("num_layers", "block_count"),
    ("hidden_dim", "embedding_length"),
    ("intermediate_dim", "feed_forward_length"),
    ("num_query_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
)
_DEFAULTS = {"use_post_ffw_norm": False, "use_post_attention_norm": False}
# Kinds of whole files, by the type that most of their numbers have.
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}


def backbone_arguments(
    metadata: Mapping[str, Any], where: str, vocabulary_size: int | None = None
) -> tuple[str, dict[str, Any]]:
    """`(class name, arguments)` of the backbone that a GGUF file holds.

    Args:
        metadata: the keys of the file.
        where: the file, for errors.
        vocabulary_size: rows of the embedding table; else the number of tokens is taken.

    Raises:
        BadPresetError: if a key is missing or says what our backbones don't do.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        raise BadPresetError(
            f"{where} holds a model of the architecture {str(architecture)[:80]!r}; read are "
            f"{', '.join(FAMILIES)}."
        )
    family, keys = FAMILIES[architecture], _Keys(metadata, architecture, where)
    layers = keys.number("block_count")
    found = {name: keys.number(key) for name, key in SIZES[:4]}
    found["intermediate_dim"] *= family.branches
    found["num_key_value_heads"] = keys.number("attention.head_count_kv", found["num_query_heads"])
    per_head = found["hidden_dim"] // max(found["num_query_heads"], 1)
    found["head_dim"] = keys.number("attention.key_length", per_head)
    tokens = metadata.get("tokenizer.ggml.tokens")
    count = len(tokens) if isinstance(tokens, list) else None
    if vocabulary_size is None:
        found["vocabulary_size"] = keys.number("vocab_size", count)
    elif count is not None and count > vocabulary_size:
        raise BadPresetError(
            f"{where}: its tokenizer has {count} tokens, and its embedding table only "
            f"{vocabulary_size} rows."
        )
    else:
        found["vocabulary_size"] = vocabulary_size
    found["layer_norm_epsilon"] = keys.number("attention.layer_norm_rms_epsilon")
    found |= family.fixed | {"query_head_dim_normalize": layers != family.large}
    for key, value in {
        "attention.value_length": found["head_dim"],
        "rope.dimension_count": found["head_dim"],
        "rope.freq_base": family.rope_base,
        "rope.freq_base_swa": 10_000.0,
    }.items():
        keys.must_be(key, value)
    keys.must_have_windows(family.period, layers)
    if architecture == "gemma2":  # llama.cpp's, where the file says nothing
        found["attention_logit_soft_cap"] = keys.number("attn_logit_softcapping", 50.0)
        found["final_logit_soft_cap"] = keys.number("final_logit_softcapping", 30.0)
        found["sliding_window_size"] = keys.number("attention.sliding_window", 4096)
    if architecture == "gemma3":
        window = keys.number("attention.sliding_window", 0)
        found["use_sliding_window_attention"] = window != 0
        found["sliding_window_size"] = window or 1024
        found["final_logit_soft_cap"] = keys.number("final_logit_softcapping", 0) or None
        found["image_size"] = None
        found["global_rope_scaling_factor"] = keys.rope_scaling()
    elif keys.rope_scaling() != 1:
        raise keys.error("rope.scaling.factor", "scales positions, which this model does not do")
    return family.backbone, check_backbone(family.backbone, found, where)


def backbone_metadata(
    backbone: str, arguments: Mapping[str, Any], context_length: int | None = None
) -> dict[str, Any]:
    """The keys that hold a backbone's arguments, `general.architecture` first.

    Args:
        backbone: `"GemmaBackbone"` or `"Gemma3Backbone"`.
        arguments: its arguments.
        context_length: tokens it was trained to look back on; else as published.

    Raises:
        ValueError: if a GGUF file of that architecture can't hold such a model; it is said why.
    """
    given = _DEFAULTS | check_backbone(backbone, dict(arguments), "A GGUF file")
    post_norms = given["use_post_ffw_norm"] or given["use_post_attention_norm"]
    architecture = "gemma2" if post_norms else "gemma"
    if backbone == "Gemma3Backbone":
        architecture = "gemma3"
    family = FAMILIES[architecture]
    for name, value in family.fixed.items():
        if given.get(name, value) != value:
            raise _unfit(architecture, f"{name}={given[name]!r}", repr(value))
    caps = given.get("attention_logit_soft_cap"), given.get("final_logit_soft_cap")
    if architecture == "gemma2" and None in caps:
        raise _unfit(architecture, f"soft caps {caps}", "a number for each")
    per_head = given["hidden_dim"] // given["num_query_heads"]
    normalized = given.get("query_head_dim_normalize", True)
    awaited = given["num_layers"] != family.large
    if normalized != awaited and per_head != given["head_dim"]:
        # Readers choose the scale by the number of layers, which tells a 27B from the others.
        raise _unfit(architecture, f"query_head_dim_normalize={normalized}", repr(awaited))
    values = dict(given, intermediate_dim=given["intermediate_dim"] // family.branches)
    scaling = float(given.get("global_rope_scaling_factor", 1.0))
    if context_length is None:
        context_length = published_context(architecture == "gemma3", scaling)
    keys = {"context_length": context_length} | {key: values[name] for name, key in SIZES}
    keys["attention.value_length"] = given["head_dim"]
    keys["attention.layer_norm_rms_epsilon"] = float(given.get("layer_norm_epsilon", 1e-6))
    keys["vocab_size"] = given["vocabulary_size"]
    if architecture == "gemma2":
        keys["attn_logit_softcapping"] = float(caps[0])
        keys["attention.sliding_window"] = given.get("sliding_window_size", 4096)
    if architecture == "gemma3":
        keys["rope.freq_base"] = family.rope_base
        if given.get("use_sliding_window_attention"):
            keys["attention.sliding_window"] = given.get("sliding_window_size", 1024)
        if scaling != 1:
            keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": scaling}
    if caps[1] is not None:
        keys["final_logit_softcapping"] = float(caps[1])
    named = {f"{architecture}.{key}": value for key, value in keys.items()}
    return {"general.architecture": architecture, "general.type": "model"} | named


def model_metadata(
    backbone: str,
    arguments: Mapping[str, Any],
    proto: bytes | None = None,
    stored: str = "F32",
    name: str | None = None,
    context_length: int | None = None,
    chat_template: str | None = None,
) -> dict[str, Any]:
    """All keys of a GGUF file: `backbone_metadata`, `vocabulary_metadata` and what kind it is.

    Args:
        stored: the type that most of the numbers have, such as `"Q8_0"`.
        name: of the model, for people.
    """
    keys = backbone_metadata(backbone, arguments, context_length)
    if name:
        keys["general.name"] = name
    keys["general.file_type"] = FILE_TYPES[stored]
    keys["general.quantization_version"] = 2
    if proto is not None:
        keys |= vocabulary_metadata(proto, arguments["vocabulary_size"], chat_template)
    return keys


def _unfit(architecture, given, awaited):
    return ValueError(
        f"GGUF's {architecture} has no field for {given}: programs that read it take {awaited} "
        "for granted. Export this model in another format."
    )


class _Keys:
    """The keys of one architecture, each seen to be of its kind."""

    def __init__(self, metadata, architecture, where):
        self.metadata, self.architecture, self.where = metadata, architecture, where

    def number(self, key, default=None):
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()  # one for each layer, and all alike
        if type(value) not in (int, float):
            problem = "is missing" if value is None else f"is {str(value)[:60]}, no number"
            raise self.error(key, problem)
        if type(value) is int:
            return value
        with np.errstate(over="ignore"):  # infinity is refused with the field it stands in
            # A float32 becomes the number that was written: 1e-06, not 9.999999974752427e-07.
            return float(str(np.float32(value)))

    def must_be(self, key, awaited):
        if (value := self.number(key, awaited)) != awaited:
            raise self.error(key, f"is {value}; {awaited} is read")

    def must_have_windows(self, period, layers):
        """The layers that have a window are those of the published models."""
        key = "attention.sliding_window_pattern"
        value = self.metadata.get(f"{self.architecture}.{key}", period)
        if isinstance(value, np.ndarray):
            windowed = np.arange(len(value)) % period < period - 1
            fits = len(value) == layers and np.array_equal(value.astype(bool), windowed)
        else:
            fits = type(value) is int and value == period
        if not fits:
            raise self.error(key, f"is {str(value)[:60]}; one of {period} without window is read")

    def rope_scaling(self):
        """What positions are divided by, in the layers without window."""
        kind = self.metadata.get(f"{self.architecture}.rope.scaling.type", "linear")
        if not isinstance(kind, str) or kind not in ("none", "linear"):
            raise self.error("rope.scaling.type", f"is {str(kind)[:60]!r}; 'linear' is read")
        factor = self.number("rope.scaling.factor", self.number("rope.scale_linear", 1.0))
        return 1.0 if kind == "none" or factor == 0 else factor

    def error(self, key, problem):
        return BadPresetError(f"{self.where}: {self.architecture}.{key} {problem}.")
