"""What google/gemma_pytorch computes, by PyTorch's operations and from its own tensors.

Written from the facts of that repository: its packages need CUDA builds and its tokenizer's file.
"""

import torch
import torch.nn.functional as F


def logits(tensors, config, token_ids):
    """Logits of every position, in float32.

    Args:
        tensors: of a `.ckpt`, under DeepMind's names.
        config: in DeepMind's names; `rope_scaling_factor` is there for Gemma 3 alone.
        token_ids: rows of whole numbers.
    """
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    table, epsilon = tensors["embedder.weight"], config["rms_norm_eps"]
    gemma3 = "rope_scaling_factor" in config
    length = token_ids.shape[1]
    x = F.embedding(token_ids, table) * torch.tensor(config["hidden_size"] ** 0.5)

    def norm(x, name):
        mean = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(mean + epsilon) * (1 + tensors[f"{name}.weight"])

    def linear(x, name):
        return F.linear(x, tensors[f"{name}.weight"])

    far = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    for layer in range(config["num_hidden_layers"]):
        here = f"model.layers.{layer}"
        window = config.get("sliding_window_size")
        # Of two layers of Gemma 2 the first sees a window, of six of Gemma 3 the first five.
        windowed = bool(window) and (layer % 6 < 5 if gemma3 else layer % 2 == 0)
        angles = _angles(config, length, gemma3, windowed)
        visible = (far >= 0) & (far < window) if windowed else far >= 0
        y = norm(x, f"{here}.input_layernorm")
        y = _attention(y, here, config, linear, norm, angles, visible, gemma3)
        if f"{here}.pre_feedforward_layernorm.weight" in tensors:
            x = x + norm(y, f"{here}.post_attention_layernorm")
            y = norm(x, f"{here}.pre_feedforward_layernorm")
        else:
            x = x + y
            y = norm(x, f"{here}.post_attention_layernorm")
        gate = F.gelu(linear(y, f"{here}.mlp.gate_proj"), approximate="tanh")
        y = linear(gate * linear(y, f"{here}.mlp.up_proj"), f"{here}.mlp.down_proj")
        if f"{here}.post_feedforward_layernorm.weight" in tensors:
            y = norm(y, f"{here}.post_feedforward_layernorm")
        x = x + y
    return _capped(norm(x, "model.norm") @ table.T, config.get("final_logit_softcapping"))


def _attention(x, here, config, linear, norm, angles, visible, gemma3):
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    width = config["head_dim"]
    sizes = [heads * width, groups * width, groups * width]
    parts = linear(x, f"{here}.self_attn.qkv_proj").split(sizes, dim=-1)
    q, k, v = (part.unflatten(-1, (-1, width)) for part in parts)
    if gemma3:
        q, k = norm(q, f"{here}.self_attn.query_norm"), norm(k, f"{here}.self_attn.key_norm")
    q, k = _turned(q, angles), _turned(k, angles)
    k, v = (part.repeat_interleave(heads // groups, dim=2) for part in (k, v))
    scores = (
        torch.einsum("bthd,bshd->bhts", q, k) * config.get("query_pre_attn_scalar", width) ** -0.5
    )
    scores = _capped(scores, config.get("attn_logit_softcapping"))
    scores = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return linear(torch.einsum("bhts,bshd->bthd", scores, v).flatten(2), f"{here}.self_attn.o_proj")


def _angles(config, length, gemma3, windowed):
    base = 1_000_000.0 if gemma3 and not windowed else 10_000.0
    width = config["head_dim"]
    speeds = base ** -(torch.arange(0, width, 2).float() / width)
    if gemma3 and not windowed:
        speeds = speeds / config["rope_scaling_factor"]
    return torch.outer(torch.arange(length).float(), speeds)


def _turned(x, angles):
    """The first half of each head with the second, as real and imaginary parts."""
    turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([turned.real, turned.imag], -1)


def _capped(x, cap):
    return x if cap is None else torch.tanh(x / cap) * cap
