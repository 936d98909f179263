"""How a matrix lies in memory for decoding, where reading weights is all the time there is.

A layout is a record of arrays that multiplies: `layout(x)` is `x` times the matrix. Adding one is
adding a class here and a line to `laid_out`.

K inputs, N outputs.
"""

import math
from typing import Any, NamedTuple

from keras import ops

from keras_gemma.arrays import in_order
from keras_gemma.generation.compiled import traits

_LARGEST_BLOCK = 512  # rows; a block's float32 copy then stays in the processor's cache
_FEW = 8  # rows of activations up to which bits are widened on the fly


class OutputMajor(NamedTuple):
    """A row per output: as an embedding table lies, and best for several rows of activations."""

    weights_NK: Any

    def __call__(self, x):
        return ops.matmul(x, ops.transpose(self.weights_NK))

    def rows(self, ids):
        return ops.take(self.weights_NK, ids, axis=0)


class InputMajor(NamedTuple):
    """A row per input: PyTorch reads float32 so at 24 GB/s, and the other way at 13."""

    weights_KN: Any

    def __call__(self, x):
        return ops.matmul(x, self.weights_KN)


class BFloat16Blocks(NamedTuple):
    """bfloat16 as whole numbers, in blocks of outputs.

    XLA has no product of bfloat16 on CPUs: it makes a float32 copy of the whole matrix, in every
    program. Sixteen bits shifted up by sixteen are that float32, and XLA fuses a shift into the sum.
    """

    bits: Any  # uint16, (blocks, rows, K)

    def __call__(self, x):
        inputs = self.bits.shape[-1]
        if math.prod(x.shape[:-1]) > _FEW:
            whole_NK = ops.view(ops.reshape(self.bits, (-1, inputs)), "bfloat16")
            return ops.matmul(x, ops.transpose(whole_NK))
        wide_MK = ops.cast(ops.reshape(x, (-1, inputs)), "float32")

        def product(bits_RK):
            block_RK = ops.view(ops.left_shift(ops.cast(bits_RK, "uint32"), 16), "float32")
            return ops.matmul(block_RK, ops.transpose(wide_MK))

        y_NM = ops.reshape(ops.map(product, self.bits), (-1, wide_MK.shape[0]))
        return ops.cast(ops.reshape(ops.transpose(y_NM), (*x.shape[:-1], -1)), x.dtype)

    def rows(self, ids):
        # A bfloat16 table looked up in a loop is converted as a whole, too: look up bits.
        whole_NK = ops.reshape(self.bits, (-1, self.bits.shape[-1]))
        return ops.view(ops.take(whole_NK, ids, axis=0), "bfloat16")


def laid_out(weights_NK: Any, shared: bool = False) -> Any:
    """The layout in which the running backend reads a matrix fastest.

    `shared` keeps the array as it is, for a table that would else lie in memory twice.
    """
    known = traits()
    if known.widens_bfloat16 and str(weights_NK.dtype).endswith("bfloat16"):
        rows = next((n for n in range(_LARGEST_BLOCK, 63, -1) if not weights_NK.shape[0] % n), 0)
        if rows:
            bits = ops.view(weights_NK, "uint16")
            return BFloat16Blocks(ops.reshape(bits, (-1, rows, weights_NK.shape[1])))
    if known.reads_inputs_first and not shared and str(weights_NK.dtype).endswith("float32"):
        return InputMajor(in_order(ops.transpose(weights_NK)))
    return OutputMajor(in_order(weights_NK))
