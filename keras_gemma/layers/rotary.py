"""Rotary position embedding (RoPE, arXiv 2104.09864), the half-split form Gemma uses.

B batch, T tokens, N heads, H head width.
"""

import numpy as np
from keras import ops

from keras_gemma.compilers import apart


def rotate(x_BTNH, index_BT, base: float = 10_000.0, scaling: float = 1.0):
    """Turn each pair (i, i + H/2) of a head by `index / scaling / base**(2i/H)` radians.

    Angles are float32 whatever the activations are: in bfloat16, positions from 256 up collide.
    """
    half = x_BTNH.shape[-1] // 2
    speeds_H = base ** -(np.arange(half) / half) / scaling
    speeds_H = ops.convert_to_tensor(speeds_H, "float32")
    cos, sin = apart(_cos_and_sin, index_BT, speeds_H)
    x = ops.cast(x_BTNH, "float32")
    first, second = ops.split(x, 2, axis=-1)  # each slice's gradient would be of full size
    turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.cast(turned, x_BTNH.dtype)


def _cos_and_sin(index_BT, speeds_H):
    angles_BTNH = ops.cast(index_BT, "float32")[:, :, None, None] * speeds_H
    return ops.cos(angles_BTNH), ops.sin(angles_BTNH)
