"""Hand-written CPU kernels for Gemma's decoding step, for JAX, PyTorch and NumPy arrays.

Weights are packed once, into float32, bfloat16, int8 or int4; activations are float32. Calls are for
inference: nothing here has a gradient.

>>> import numpy as np
>>> weights = np.eye(40, 7, dtype="float32")  # [outputs, inputs]
>>> linear(np.ones((2, 7), "float32"), pack(weights)).shape
(2, 40)
"""

from keras_gemma_kernels._native import Available, available
from keras_gemma_kernels.packed import BLOCK, Packed, as_stored, pack
from keras_gemma_kernels.steps import (
    Block,
    Rules,
    attend,
    attention_inputs,
    attention_output,
    decoder_block,
    feed_forward,
    head,
    linear,
    rows,
)

__version__ = "0.2.0"
__all__ = [
    "BLOCK",
    "Available",
    "Block",
    "Packed",
    "Rules",
    "as_stored",
    "attend",
    "attention_inputs",
    "attention_output",
    "available",
    "decoder_block",
    "feed_forward",
    "head",
    "linear",
    "pack",
    "rows",
]
