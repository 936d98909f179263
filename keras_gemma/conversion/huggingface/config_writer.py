"""The arguments of our backbones as the `config.json` of Transformers' Gemma, Gemma 2 or Gemma 3."""

from collections.abc import Mapping
from typing import Any

from keras_gemma.conversion.huggingface.config import (
    ARCHITECTURES,
    BASES,
    FULL,
    LOCAL_BASE,
    NAMES,
    PERIODS,
    SLIDING,
    TANH_GELU,
    WINDOWED,
    layer_types,
)
from keras_gemma.presets.fields import SIZES


def huggingface_config(
    backbone: str,
    config: Mapping[str, Any],
    dtype: str,
    context_length: int,
    ids: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The `config.json` of a backbone, in words that Transformers 4 and 5 read alike.

    Args:
        backbone: `"GemmaBackbone"` or `"Gemma3Backbone"`.
        config: its arguments.
        dtype: of the stored numbers.
        context_length: tokens the model was made for.
        ids: of "bos", "eos" and "pad", where they are known.

    Raises:
        ValueError: no Gemma of Transformers has these options; they are named.
    """
    kind = _kind(backbone, config)
    heads, width = config["num_query_heads"], config["hidden_dim"]
    made: dict[str, Any] = {"architectures": [ARCHITECTURES[kind]], "model_type": kind}
    made |= {theirs: config[ours] for theirs, ours in NAMES.items() if ours in SIZES}
    if backbone == "GemmaBackbone":
        made["intermediate_size"] //= 2
    made |= {
        "rms_norm_eps": float(config.get("layer_norm_epsilon", 1e-6)),
        "hidden_activation": TANH_GELU,
        "max_position_embeddings": context_length,
        "rope_theta": BASES[kind],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
    }
    made |= {f"{name}_token_id": index for name, index in (ids or {}).items() if index >= 0}
    if kind == "gemma":
        return {**made, "hidden_act": TANH_GELU}
    per_head = config.get("query_head_dim_normalize", True)
    windowed = config.get(WINDOWED, False)
    layers, period = config["num_layers"], PERIODS[kind]
    made |= {
        "query_pre_attn_scalar": config["head_dim"] if per_head else width // heads,
        "sliding_window": config.get("sliding_window_size", 4096 if kind == "gemma2" else 1024),
        "layer_types": layer_types(layers, period) if windowed else [FULL] * layers,
        "attn_logit_softcapping": _number(config.get("attention_logit_soft_cap")),
        "final_logit_softcapping": _number(config.get("final_logit_soft_cap")),
    }
    if kind == "gemma3_text":
        made |= {"sliding_window_pattern": period, **_rope_fields(config)}
    return made


def _rope_fields(config):
    full = float(config.get("global_rope_scaling_factor", 1.0))
    local = float(config.get("local_rope_scaling_factor", 1.0))
    scaling = {"rope_type": "linear", "factor": full} if full != 1 else None
    if local == 1:
        return {"rope_local_base_freq": LOCAL_BASE, "rope_scaling": scaling}
    records = {  # only Transformers 5 has a word for it
        SLIDING: {"rope_type": "linear", "factor": local, "rope_theta": LOCAL_BASE},
        FULL: {**(scaling or {"rope_type": "default"}), "rope_theta": BASES["gemma3_text"]},
    }
    return {"rope_local_base_freq": LOCAL_BASE, "rope_parameters": records}


def _kind(backbone, config):
    """The `model_type` that has these options."""
    norms = {config.get(f"use_post_{name}_norm", False) for name in ("ffw", "attention")}
    is_gemma3 = backbone == "Gemma3Backbone"
    heads, width, head = (config[n] for n in ("num_query_heads", "hidden_dim", "head_dim"))
    wrong = []
    if len(norms) == 2 or (is_gemma3 and norms == {False}):
        wrong += ["use_post_ffw_norm", "use_post_attention_norm"]
    kind = "gemma3_text" if is_gemma3 else "gemma2" if norms == {True} else "gemma"
    if is_gemma3:
        wrong += ["use_query_key_norm"] * (not config.get("use_query_key_norm", True))
        wrong += ["attention_logit_soft_cap"] * (config.get("attention_logit_soft_cap") is not None)
    if kind == "gemma" and not wrong:
        options = ("attention_logit_soft_cap", "final_logit_soft_cap", WINDOWED)
        wrong += [name for name in options if config.get(name)]
        per_head = config.get("query_head_dim_normalize", True)
        wrong += ["query_head_dim_normalize"] * (not per_head and width // heads != head)
    if kind != "gemma" and width % heads:
        wrong += ["hidden_dim"]  # Transformers wants a multiple of the heads there
    if wrong:
        raise ValueError(
            f"Transformers has no Gemma like this {backbone}: it can't be told "
            + ", ".join(f"{name}={config.get(name)!r}" for name in wrong)
            + '. Save it as a preset instead (save_to_preset, or format="keras_hub").'
        )
    return kind


def _number(value):
    return None if value is None else float(value)
