"""`config.json` of Transformers' Gemma, Gemma 2 and Gemma 3 as the arguments of our backbones.

What a backbone can't be told is an error that names the field; `attention_dropout`, which acts in
training only, and what does not shape the model are passed over.
"""

from collections.abc import Mapping
from typing import Any

from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.presets.errors import BadPresetError
from keras_gemma.presets.fields import TABLES, check_backbone

TANH_GELU = "gelu_pytorch_tanh"
WINDOWED = "use_sliding_window_attention"  # our name of the option
SLIDING, FULL = "sliding_attention", "full_attention"
ARCHITECTURES = {
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
# Every how many layers one sees all, and the base of its rotary positions.
PERIODS = {"gemma2": 2, "gemma3_text": 6}
BASES = {"gemma": 10_000.0, "gemma2": 10_000.0, "gemma3_text": 1_000_000.0}
LOCAL_BASE = 10_000.0

NAMES = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_query_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "head_dim": "head_dim",
    "rms_norm_eps": "layer_norm_epsilon",
}
# What a field is where a file leaves it out: the published Gemma 3 4B names four of its sizes only.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {
        "vocab_size": 256_000,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "hidden_size": 3072,
        "intermediate_size": 24_576,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
    },
    "gemma2": {
        "vocab_size": 256_000,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
}
_DEFAULTS["gemma3_text"] = _DEFAULTS["gemma2"] | {
    "vocab_size": 262_208,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
# Fields with one meaning that we have; the first value is what a file means that says nothing.
_FIXED: dict[str, tuple] = {
    "attention_bias": (False, None),
    "use_bidirectional_attention": (False, None),
    "tie_word_embeddings": (True, None),
    "partial_rotary_factor": (None, 1.0),
    # Gemma's first files say "gelu" and mean its tanh form.
    "hidden_act": (TANH_GELU, "gelu", None),
    "hidden_activation": (TANH_GELU, None),
    "auto_map": (None,),  # code in the folder, which is not run
    "quantization_config": (None,),
}


def backbone_arguments(config: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """`(class name, arguments)` of the backbone that a `config.json` describes.

    Of a `gemma3`, which reads images, it is the text part. `dtype` is among the arguments where
    the file names that of the stored numbers.

    Raises:
        BadPresetError: naming the field, what stands there and what may.
    """
    kind = config.get("model_type")
    if kind == "gemma3":
        inner = config.get("text_config")
        if not isinstance(inner, Mapping):
            raise BadPresetError(f"{where}: 'text_config' must be an object.")
        outer = {name: config[name] for name in (*_FIXED, "dtype", "torch_dtype") if name in config}
        config, kind = {**outer, **inner}, "gemma3_text"
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise BadPresetError(
            f"{where} describes a {kind!r:.60}; this library reads {', '.join(ARCHITECTURES)} and "
            "the text part of gemma3."
        )
    for name, values in _FIXED.items():
        _one_of(config, name, values, where)
    config = _DEFAULTS[kind] | dict(config)
    backbone = "Gemma3Backbone" if kind == "gemma3_text" else "GemmaBackbone"
    arguments: dict[str, Any] = {}
    for theirs, ours in NAMES.items():
        arguments[ours] = _checked(config[theirs], TABLES[backbone][ours], theirs, where)
    if backbone == "GemmaBackbone":
        arguments["intermediate_dim"] *= 2  # counts both branches
    if dtype := config.get("dtype") or config.get("torch_dtype"):
        if dtype not in tuple(DTYPES):
            raise BadPresetError(
                f"{where}: dtype={dtype!r:.60} must be one of {', '.join(DTYPES)}."
            )
        arguments["dtype"] = dtype
    if kind == "gemma":
        _rope(config, None, BASES[kind], where)
    else:
        arguments |= _later_options(config, kind, backbone, arguments, where)
    return backbone, check_backbone(backbone, arguments, where)


def _later_options(config, kind, backbone, sizes, where):
    """What Gemma 2 and 3 can be told beside their sizes."""
    table = TABLES[backbone]
    options = {
        "use_post_ffw_norm": True,
        "use_post_attention_norm": True,
        "query_head_dim_normalize": _per_head(config, sizes, where),
        "use_sliding_window_attention": _is_windowed(config, kind, where),
    }
    for theirs, ours in (
        ("sliding_window", "sliding_window_size"),
        ("attn_logit_softcapping", "attention_logit_soft_cap"),
        ("final_logit_softcapping", "final_logit_soft_cap"),
    ):
        if theirs == "sliding_window" and config[theirs] is None and not options[WINDOWED]:
            continue
        options[ours] = _checked(config[theirs], table[ours], theirs, where)
    if kind == "gemma2":
        _rope(config, None, BASES[kind], where)
        return options
    if options.pop("attention_logit_soft_cap") is not None:
        raise BadPresetError(
            f"{where}: attn_logit_softcapping must be null: Gemma 3 caps no scores, in Transformers "
            "not even where it is set."
        )
    return options | {
        "image_size": None,
        "use_query_key_norm": True,
        "global_rope_scaling_factor": _rope(config, FULL, BASES[kind], where),
        "local_rope_scaling_factor": _rope(config, SLIDING, LOCAL_BASE, where),
    }


def _per_head(config, sizes, where):
    """Whether scores are scaled by the width of a head, not by the model's width over heads."""
    scale = config["query_pre_attn_scalar"]
    shared = sizes["hidden_dim"] // sizes["num_query_heads"]
    if type(scale) not in (int, float) or scale not in (sizes["head_dim"], shared):
        raise BadPresetError(
            f"{where}: query_pre_attn_scalar={scale!r:.60} must be head_dim={sizes['head_dim']} "
            f"or hidden_size / num_attention_heads={shared}."
        )
    return scale == sizes["head_dim"]


def _is_windowed(config, kind, where):
    layers, period = config["num_hidden_layers"], PERIODS[kind]
    pattern = layer_types(layers, period)
    found = config.get("layer_types")
    if found is None:
        every = config.get("sliding_window_pattern", period)
        found = layer_types(layers, every) if type(every) is int and every > 0 else every
        field = "sliding_window_pattern"
    else:
        field = "layer_types"
    if found not in (pattern, [FULL] * layers):
        raise BadPresetError(
            f"{where}: {field}={config.get(field)!r:.80} must make every "
            f"{period}. layer {FULL} and the others {SLIDING}, or all {FULL}."
        )
    return found == pattern and SLIDING in pattern


def layer_types(layers: int, period: int) -> list[str]:
    """Transformers' names of the layers where every `period`th sees all, the others a window."""
    return [SLIDING if (layer + 1) % period else FULL for layer in range(layers)]


def _rope(config, layers, base, where):
    """By what positions are divided, in all layers or in those of a type.

    Transformers 5 has `rope_parameters`, in Gemma 3 an object for each type of layer; before it
    there were `rope_theta`, `rope_local_base_freq` and, of the layers that see all, `rope_scaling`.
    """
    record, field = config.get("rope_parameters") or {}, "rope_parameters"
    if layers and isinstance(record, Mapping):
        record, field = record.get(layers) or {}, f"rope_parameters.{layers}"
    scaling = None if layers == SLIDING else config.get("rope_scaling")
    for part, name in ((record, field), (scaling or {}, "rope_scaling")):
        if not isinstance(part, Mapping):
            raise BadPresetError(f"{where}: {name}={part!r:.60} must be an object.")
    record = {**record, **(scaling or {})}
    old = "rope_local_base_freq" if layers == SLIDING else "rope_theta"
    found = record.get("rope_theta", config.get(old, base))
    if type(found) not in (int, float) or found != base:
        raise BadPresetError(f"{where}: {old}={found!r:.60} must be {base}.")
    _one_of(record, "partial_rotary_factor", (None, 1.0), f"{where}: {field}")
    kind = record.get("rope_type", record.get("type", "default"))
    if kind == "default":
        return 1.0
    if kind != "linear" or not layers:
        may = "'default' or 'linear'" if layers else "'default'"
        raise BadPresetError(f"{where}: rope_type={kind!r:.60} must be {may}.")
    table = TABLES["Gemma3Backbone"]["global_rope_scaling_factor"]
    return _checked(record.get("factor"), table, "factor of rope_scaling", where)


def _checked(value, table, name, where):
    if not table.fits(value):
        raise BadPresetError(f"{where}: {name}={value!r:.60} must be {table}.")
    return value


def _one_of(config, name, values, where):
    value = config.get(name, values[0])
    if not any(value is known or (known == value and known is not False) for known in values):
        may = " or ".join(repr(known) for known in values)
        raise BadPresetError(f"{where}: {name}={value!r:.60} is not supported; it must be {may}.")
