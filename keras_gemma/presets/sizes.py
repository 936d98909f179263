"""How large a model is, from its configuration alone: weights by name, parameters, cache.

V vocabulary, D model width, N query heads, K key heads, H head width, F one feed-forward branch.
"""

import math
from collections.abc import Mapping
from typing import Any

BYTES_PER_NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}


def weight_shapes(backbone: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each weight, by its path in `model.weights.h5`.

    Args:
        backbone: `"GemmaBackbone"`, whose `intermediate_dim` counts both branches of the
            feed-forward layer, or `"Gemma3Backbone"`, which counts one.
        config: the backbone's arguments.

    >>> tiny = dict(vocabulary_size=8, num_layers=1, num_query_heads=2, num_key_value_heads=1,
    ...             hidden_dim=4, intermediate_dim=6, head_dim=2)
    >>> weight_shapes("GemmaBackbone", tiny)["layers/gemma_decoder_block/gating_ffw"]
    (4, 3)
    """
    names = ("vocabulary_size", "hidden_dim", "num_query_heads", "num_key_value_heads", "head_dim")
    V, D, N, K, H = (config[name] for name in names)
    is_gemma3 = backbone == "Gemma3Backbone"
    F = config["intermediate_dim"] // (1 if is_gemma3 else 2)
    block = {
        "attention/query_dense": (N, D, H),
        "attention/key_dense": (K, D, H),
        "attention/value_dense": (K, D, H),
        "attention/output_dense": (N, H, D),
        "gating_ffw": (D, F),
        "gating_ffw_2": (D, F),
        "ffw_linear": (F, D),
        "pre_attention_norm": (D,),
        "pre_ffw_norm": (D,),
    }
    if is_gemma3 and config.get("use_query_key_norm", True):
        block |= {"attention/query_norm": (H,), "attention/key_norm": (H,)}
    for name in ("post_attention_norm", "post_ffw_norm"):
        if config.get(f"use_{name}", False):
            block[name] = (D,)
    prefix = "layers/gemma3_decoder_block" if is_gemma3 else "layers/gemma_decoder_block"
    shapes = {"layers/reversible_embedding": (V, D), "layers/rms_normalization": (D,)}
    for i in range(config["num_layers"]):
        here = f"{prefix}_{i}" if i else prefix  # the first of a class has no number
        shapes |= {f"{here}/{name}": shape for name, shape in block.items()}
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
