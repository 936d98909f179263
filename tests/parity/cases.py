"""The models that are compared with other implementations, and how their weights are drawn."""

import keras
import numpy as np

from keras_gemma import Gemma3Backbone, Gemma3CausalLM, GemmaBackbone, GemmaCausalLM

SIZES = {
    "vocabulary_size": 96,
    "num_layers": 3,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 64,
    "head_dim": 8,
}
NORMS = {"use_post_ffw_norm": True, "use_post_attention_norm": True}
WINDOW = {"use_sliding_window_attention": True, "sliding_window_size": 4}
GEMMA_2 = {**NORMS, **WINDOW, "attention_logit_soft_cap": 20.0, "final_logit_soft_cap": 30.0}
GEMMA_3 = {**NORMS, **WINDOW, "image_size": None, "num_layers": 7, "use_query_key_norm": True}

# name: (arguments, the option whose absence must show)
GEMMA = {
    "multi-query": ({"num_key_value_heads": 1}, None),
    "grouped": ({}, None),
    "multi-head, wider than the model": ({"num_key_value_heads": 4}, None),
    "window": (WINDOW, "use_sliding_window_attention"),
    "attention cap": ({"attention_logit_soft_cap": 20.0}, "attention_logit_soft_cap"),
    "final cap": ({"final_logit_soft_cap": 30.0}, "final_logit_soft_cap"),
    "norm after attention": ({"use_post_attention_norm": True}, "use_post_attention_norm"),
    "norm after feed-forward": ({"use_post_ffw_norm": True}, "use_post_ffw_norm"),
    "Gemma 2": (GEMMA_2, "use_sliding_window_attention"),
    "Gemma 2, multi-query": ({**GEMMA_2, "num_key_value_heads": 1}, "attention_logit_soft_cap"),
    "Gemma 2 27B's scale": (
        {**GEMMA_2, "query_head_dim_normalize": False},
        "query_head_dim_normalize",
    ),
    "Gemma 2, wide epsilon": ({**GEMMA_2, "layer_norm_epsilon": 0.5}, "layer_norm_epsilon"),
}
GEMMA3 = {
    "Gemma 3": (GEMMA_3, "use_query_key_norm"),
    "Gemma 3, multi-query": (
        {**GEMMA_3, "num_key_value_heads": 1},
        "use_sliding_window_attention",
    ),
    "Gemma 3, long": ({**GEMMA_3, "global_rope_scaling_factor": 8.0}, "global_rope_scaling_factor"),
    "Gemma 3 27B's scale": (
        {**GEMMA_3, "query_head_dim_normalize": False},
        "query_head_dim_normalize",
    ),
}
DEFAULTS = {
    "use_sliding_window_attention": False,
    "attention_logit_soft_cap": None,
    "final_logit_soft_cap": None,
    "use_post_attention_norm": False,
    "use_post_ffw_norm": False,
    "query_head_dim_normalize": True,
    "layer_norm_epsilon": 1e-6,
    "use_query_key_norm": False,
    "global_rope_scaling_factor": 1.0,
}


def arguments(name):
    changes, _ = {**GEMMA, **GEMMA3}[name]
    return {**SIZES, **changes}


def option(name):
    return {**GEMMA, **GEMMA3}[name][1]


def make(name, **changes):
    """Our model of a case; a weight depends on its path alone, so cases can be compared."""
    backbone, task = (
        (Gemma3Backbone, Gemma3CausalLM) if name in GEMMA3 else (GemmaBackbone, GemmaCausalLM)
    )
    model = task(backbone=backbone(**{**arguments(name), **changes}), preprocessor=None)
    for variable in model.backbone.variables:
        path = variable.path
        random = np.random.default_rng([len(path), sum(map(ord, path))])
        spread = next(s for part, s in _SPREADS if part in path)
        variable.assign(random.normal(0, spread, variable.shape))
    return model


_SPREADS = (
    ("query_norm/scale", 4.0),
    ("key_norm/scale", 4.0),
    ("scale", 0.4),
    ("query/kernel", 1.0),
    ("key/kernel", 1.0),
    ("embeddings", 1.2),
    ("", 0.25),
)


def inputs(seed=0, rows=2, length=23):
    """Ids and a mask whose first row is padded on the right."""
    random = np.random.default_rng(seed)
    token_ids = random.integers(1, SIZES["vocabulary_size"], (rows, length)).astype("int32")
    mask = np.ones_like(token_ids)
    mask[0, 15:] = 0
    return {"token_ids": token_ids, "padding_mask": mask}


def logits(model, batch):
    return np.asarray(keras.ops.convert_to_numpy(model(batch)))
