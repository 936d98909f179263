"""How large a model is, from its configuration alone: weights by name, parameters, cache.

V vocabulary, D model width, N query heads, K key heads, H head width, F one feed-forward branch.
"""

import math
from collections.abc import Mapping
from typing import Any

BYTES_PER_NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}


def weight_shapes(backbone: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each weight, by the path of its variable in the backbone.

    Args:
        backbone: `"GemmaBackbone"`, whose `intermediate_dim` counts both branches of the
            feed-forward layer, or `"Gemma3Backbone"`, which counts one.
        config: the backbone's arguments.

    >>> tiny = dict(vocabulary_size=8, num_layers=1, num_query_heads=2, num_key_value_heads=1,
    ...             hidden_dim=4, intermediate_dim=6, head_dim=2)
    >>> weight_shapes("GemmaBackbone", tiny)["decoder_block_0/ffw_gating/kernel"]
    (4, 3)
    """
    names = ("vocabulary_size", "hidden_dim", "num_query_heads", "num_key_value_heads", "head_dim")
    V, D, N, K, H = (config[name] for name in names)
    is_gemma3 = backbone == "Gemma3Backbone"
    F = config["intermediate_dim"] // (1 if is_gemma3 else 2)
    block = {
        "attention/query/kernel": (N, D, H),
        "attention/key/kernel": (K, D, H),
        "attention/value/kernel": (K, D, H),
        "attention/attention_output/kernel": (N, H, D),
        "ffw_gating/kernel": (D, F),
        "ffw_gating_2/kernel": (D, F),
        "ffw_linear/kernel": (F, D),
        "pre_attention_norm/scale": (D,),
        "pre_ffw_norm/scale": (D,),
    }
    if is_gemma3 and config.get("use_query_key_norm", True):
        block |= {f"attention/{name}_norm/scale": (H,) for name in ("query", "key")}
    for name in ("post_attention_norm", "post_ffw_norm"):
        if config.get(f"use_{name}", False):
            block[f"{name}/scale"] = (D,)
    shapes = {"token_embedding/embeddings": (V, D), "final_normalization/scale": (D,)}
    for i in range(config["num_layers"]):
        shapes |= {f"decoder_block_{i}/{name}": shape for name, shape in block.items()}
    return shapes


def parameter_count(backbone: str, config: Mapping[str, Any]) -> int:
    """Parameters of a backbone, to the unit; the embedding table is counted once."""
    return sum(math.prod(shape) for shape in weight_shapes(backbone, config).values())


def cache_bytes(config: Mapping[str, Any], tokens: int, dtype: str) -> int:
    """Bytes that the keys and values of `tokens` tokens take, for one sequence.

    Every layer is counted as seeing all of them; a windowed one keeps its window only.
    """
    per_token = 2 * config["num_key_value_heads"] * config["head_dim"]
    return config["num_layers"] * per_token * tokens * BYTES_PER_NUMBER[dtype]


def megabytes(count: int) -> str:
    """A number of bytes for people.

    >>> megabytes(5_012_344_832), megabytes(2_427_136)
    ('5.0 GB', '2.4 MB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"
