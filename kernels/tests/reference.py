"""A decoder block in plain NumPy and float64, which keeps all tokens in a list and knows no ring.

B batch rows, T tokens, D width, N query heads, K key heads, H head width, S slots.
"""

import numpy as np


def norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * (1 + weight)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def cap(x, limit):
    return np.tanh(x / limit) * limit if limit else x


def rotate(x_NH, index, rules):
    half = x_NH.shape[-1] // 2
    angles = index * rules.rope_base ** -(np.arange(half) / half) / rules.rope_scaling
    a, b = x_NH[:, :half], x_NH[:, half:]
    turned = [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)]
    return np.concatenate(turned, -1)


def quantized(x):
    """Activations as integer products see them: blocks of 32 to 127 steps either way."""
    padded = np.pad(x, [(0, 0), (0, -x.shape[1] % 32)]).reshape(len(x), -1, 32)
    scale = np.abs(padded).max(-1, keepdims=True) / np.float32(127)
    whole = np.round(padded / np.where(scale == 0, 1, scale))
    return (whole * scale).reshape(len(x), -1)[:, : x.shape[1]]


class ReferenceBlock:
    """The weights, as the products see them (unpacked), and what each row has seen so far."""

    def __init__(self, weights, norms, rules, epsilon, slots, integers=False):
        self.w, self.norms, self.rules, self.integers = weights, norms, rules, integers
        self.epsilon, self.slots = epsilon, slots
        self.seen = {}

    def __call__(self, x_BTD, index_BT, segment_BT):
        y = np.empty(x_BTD.shape)
        for b, t in np.ndindex(x_BTD.shape[:2]):
            y[b, t] = self.token(x_BTD[b, t].astype(float), b, index_BT[b, t], segment_BT[b, t])
        return y

    def normed(self, x, name):
        weight = self.norms.get(name)
        return x if weight is None else norm(x, weight, self.epsilon)

    def product(self, name, x):
        return self.w[name] @ (quantized(x[None])[0] if self.integers else x)

    def token(self, x_D, b, index, segment):
        if segment == 0:
            return np.zeros_like(x_D)
        attended = self.attend(
            self.product("qkv", self.normed(x_D, "pre_attention_norm")), b, index, segment
        )
        x_D = x_D + self.normed(self.product("output", attended), "post_attention_norm")
        gate, up = np.split(self.product("gate_up", self.normed(x_D, "pre_ffw_norm")), 2)
        return x_D + self.normed(self.product("down", gelu(gate) * up), "post_ffw_norm")

    def attend(self, qkv, b, index, segment):
        r, H = self.rules, self.rules.head_dim
        q, k, v = np.split(
            qkv.reshape(-1, H), [r.num_query_heads, r.num_query_heads + r.num_key_value_heads]
        )
        q = rotate(self.normed(q, "query_norm"), index, r) * r.scale
        k = rotate(self.normed(k, "key_norm"), index, r)
        past = self.seen.setdefault(b, [])
        if segment > 0:
            past.append((k, v, index, segment))
        seen = [
            (k, v)
            for k, v, place, document in past[-self.slots :]
            if document == segment and 0 <= index - place < (r.window or np.inf)
        ]
        if not seen:
            return np.zeros(q.size)
        group = r.num_query_heads // r.num_key_value_heads
        keys_SNH, values_SNH = (np.repeat(np.array(part), group, axis=1) for part in zip(*seen))
        scores_SN = cap((q * keys_SNH).sum(-1), r.soft_cap)
        weights_SN = np.exp(scores_SN - scores_SN.max(0))
        weights_SN /= weights_SN.sum(0)
        return (weights_SN[:, :, None] * values_SNH).sum(0).ravel()
