"""Where ggml's arithmetic on CPUs is coarser than float32, done to our layers.

It takes GELU from a table of float16 numbers, and brings what is multiplied with a weight to the
type that goes with the weight's own: F16 with F16, BF16 with BF16, Q8_0 with blocks of 32. And it
multiplies its way from one angle of a position to the next.
"""

import keras
import ml_dtypes
import numpy as np
from keras import ops

from keras_gemma.conversion.gguf.blocks import dequantize, quantize
from keras_gemma.layers import Dense, attention


def table_gelu(x, approximate):
    """`ggml_vec_gelu_f32`: the argument and the value are rounded to float16."""
    assert approximate
    x = ops.convert_to_numpy(x)
    half = x.astype("float16").astype("float32")
    inner = np.float32(0.79788456080286535588) * half * (1 + np.float32(0.044715) * half * half)
    value = (0.5 * half * (1 + np.tanh(inner))).astype("float16").astype("float32")
    return ops.convert_to_tensor(np.where(x <= -10, np.float32(0), np.where(x >= 10, x, value)))


def step_by_step_rotate(x_BTNH, index_BT, base, scaling=1.0):
    """`ggml_rope_cache_init`: each angle is the one before times a factor."""
    x_BTNH, angle = ops.convert_to_numpy(x_BTNH), ops.convert_to_numpy(index_BT).astype("float32")
    half = x_BTNH.shape[-1] // 2
    factor, angles = np.float32(base) ** np.float32(-1 / half), []
    for _ in range(half):
        angles.append(angle)
        angle = angle * factor
    angles = np.stack(angles, -1)[:, :, None] * np.float32(1 / scaling)
    cos, sin = np.cos(angles), np.sin(angles)
    real, imaginary = x_BTNH[..., :half], x_BTNH[..., half:]
    turned = [real * cos - imaginary * sin, imaginary * cos + real * sin]
    return ops.convert_to_tensor(np.concatenate(turned, -1))


def _blocks_of_256(x):
    """`quantize_row_q8_K`: the number farthest from zero becomes -127."""
    rows = x.reshape(-1, 256)
    largest = np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1)
    scale = np.float32(-127) / np.where(largest == 0, np.float32(1), largest)
    return (np.minimum(np.rint(scale * rows), 127) / scale).reshape(x.shape)


# By the type of the weights; float32 is multiplied as it is.
ROUNDED = {
    "F32": lambda x: x,
    "F16": lambda x: x.astype("float16").astype("float32"),
    "BF16": lambda x: x.astype(ml_dtypes.bfloat16).astype("float32"),
    "Q8_0": lambda x: dequantize("Q8_0", quantize("Q8_0", x)).reshape(x.shape),
    "Q4_K": _blocks_of_256,
}
ROUNDED |= {"Q4_0": ROUNDED["Q8_0"], "Q5_0": ROUNDED["Q8_0"], "Q6_K": ROUNDED["Q4_K"]}


def use(monkeypatch, types):
    """Let our layers compute so.

    Args:
        types: of the weights, by path; the table's is `token_embedding`.
    """
    dense, embedding = Dense.call, keras.layers.ReversibleEmbedding.call

    def rounded(x, kind, axes=1):
        x = ops.convert_to_numpy(x)
        flat = np.ascontiguousarray(x.reshape(*x.shape[: x.ndim - axes], -1))
        return ops.convert_to_tensor(ROUNDED[kind](flat).reshape(x.shape))

    def dense_call(self, x, *args, **kwargs):
        axes = 2 if self.name == "attention_output" else 1  # heads lie behind one another
        return dense(self, rounded(x, types[self.kernel.path], axes), *args, **kwargs)

    def embedding_call(self, x, reverse=False):
        x = rounded(x, types["token_embedding/embeddings"]) if reverse else x
        return embedding(self, x, reverse=reverse)

    monkeypatch.setattr(keras.activations, "gelu", table_gelu)
    monkeypatch.setattr(attention, "rotate", step_by_step_rotate)
    monkeypatch.setattr(Dense, "call", dense_call)
    monkeypatch.setattr(keras.layers.ReversibleEmbedding, "call", embedding_call)
