"""Models of Transformers with the shapes and the weights of ours."""

import cases
import numpy as np
import pytest
from keras import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def theirs(name, **changes):
    """A case of cases.py as Transformers has it, with random weights."""
    ours = {**cases.arguments(name), **changes}
    gemma3 = name in cases.GEMMA3
    common = {
        "vocab_size": ours["vocabulary_size"],
        "hidden_size": ours["hidden_dim"],
        "intermediate_size": ours["intermediate_dim"] // (1 if gemma3 else 2),
        "num_hidden_layers": ours["num_layers"],
        "num_attention_heads": ours["num_query_heads"],
        "num_key_value_heads": ours["num_key_value_heads"],
        "head_dim": ours["head_dim"],
        "rms_norm_eps": ours.get("layer_norm_epsilon", 1e-6),
        "tie_word_embeddings": True,
        "attn_implementation": "eager",
    }
    normal = ours.get("query_head_dim_normalize", True)
    scale = ours["head_dim"] if normal else ours["hidden_dim"] // ours["num_query_heads"]
    if not name.startswith("Gemma"):
        return transformers.GemmaForCausalLM(transformers.GemmaConfig(**common))
    common |= {"query_pre_attn_scalar": scale, "sliding_window": ours["sliding_window_size"]}
    if not gemma3:
        config = transformers.Gemma2Config(
            **common,
            attn_logit_softcapping=ours["attention_logit_soft_cap"],
            final_logit_softcapping=ours["final_logit_soft_cap"],
        )
        return transformers.Gemma2ForCausalLM(config)
    full = {"rope_type": "default", "rope_theta": 1_000_000.0}
    if factor := ours.get("global_rope_scaling_factor"):
        full |= {"rope_type": "linear", "factor": factor}
    config = transformers.Gemma3TextConfig(
        **common,
        rope_parameters={
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    )
    return transformers.Gemma3ForCausalLM(config)


def copied(ours, reference):
    """Give the reference our weights; every parameter of it is set exactly once."""
    values = {v.path: np.asarray(ops.convert_to_numpy(v)) for v in ours.variables}
    tensors = {key: torch.tensor(value) for key, value in in_their_layout(values).items()}
    missing, unexpected = reference.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    reference.tie_weights()
    return reference.eval()


def in_their_layout(values):
    """Arrays by the paths of our weights, as those of their names: the weights, or their gradients."""
    state = {"model.embed_tokens.weight": values["token_embedding/embeddings"]}
    state["model.norm.weight"] = values["final_normalization/scale"]
    norms = {
        "pre_attention_norm": "input_layernorm",
        "pre_ffw_norm": "post_attention_layernorm",
    }
    if "decoder_block_0/post_ffw_norm/scale" in values:
        norms = {
            "pre_attention_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
            "pre_ffw_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
    if "decoder_block_0/attention/query_norm/scale" in values:
        norms |= {
            "attention/query_norm": "self_attn.q_norm",
            "attention/key_norm": "self_attn.k_norm",
        }
    layers = {path.split("/")[0] for path in values if path.startswith("decoder_block_")}
    for layer in range(len(layers)):
        block, their = f"decoder_block_{layer}/", f"model.layers.{layer}."
        for name, theirs_ in norms.items():
            state[f"{their}{theirs_}.weight"] = values[f"{block}{name}/scale"]
        for name, theirs_ in (("query", "q"), ("key", "k"), ("value", "v")):
            kernel = values[f"{block}attention/{name}/kernel"]
            state[f"{their}self_attn.{theirs_}_proj.weight"] = kernel.transpose(0, 2, 1).reshape(
                -1, kernel.shape[1]
            )
        kernel = values[f"{block}attention/attention_output/kernel"]
        state[f"{their}self_attn.o_proj.weight"] = kernel.reshape(-1, kernel.shape[-1]).T
        for name, theirs_ in (("gating", "gate"), ("gating_2", "up"), ("linear", "down")):
            state[f"{their}mlp.{theirs_}_proj.weight"] = values[f"{block}ffw_{name}/kernel"].T
    return {key: np.ascontiguousarray(value) for key, value in state.items()}
