"""How a matrix lies in memory for decoding, where reading weights is all the time there is.

A layout is a record of arrays that multiplies: `layout(x)` is `x` times the matrix. Adding one is
adding a class here and a line to `laid_out`.

K inputs, N outputs.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gemma.arrays import lent
from keras_gemma.compilers import in_order
from keras_gemma.generation.compiled import product, reads_outputs_first, traits
from keras_gemma.quantization import WholeNumbers

_LARGEST_BLOCK = 512  # rows; a block's float32 copy then stays in the processor's cache
_SEVERAL = 16  # rows of activations up to which blocks are multiplied one by one
_FEW = 8  # rows of activations up to which bits are widened on the fly


class OutputMajor(NamedTuple):
    """A row per output: as an embedding table lies, and best for several rows of activations."""

    weights_NK: Any

    def __call__(self, x):
        return product(x, ops.transpose(self.weights_NK))

    def rows(self, ids):
        return ops.take(self.weights_NK, ids, axis=0)


class OutputBlocks(NamedTuple):
    """`OutputMajor`, in blocks of outputs for several rows of activations.

    XLA multiplies some rows by a block that fits a cache at up to 1.8 times the speed of a product with the
    whole, which reads it in strips. One row is read as it lies.
    """

    weights_NK: Any

    def __call__(self, x):
        outputs, inputs = self.weights_NK.shape
        if not 1 < math.prod(x.shape[:-1]) <= _SEVERAL:
            return ops.matmul(x, ops.transpose(self.weights_NK))
        x_KM = ops.transpose(ops.reshape(x, (-1, inputs)))
        blocks_BRK = ops.reshape(self.weights_NK, (-1, _block_rows(outputs), inputs))
        y_BRM = ops.map(lambda block_RK: ops.matmul(block_RK, x_KM), blocks_BRK)
        y_MN = ops.transpose(ops.reshape(y_BRM, (outputs, -1)))
        return ops.reshape(y_MN, (*x.shape[:-1], outputs))

    def rows(self, ids):
        return ops.take(self.weights_NK, ids, axis=0)


class InputMajor(NamedTuple):
    """A row per input.

    The other way round XLA reads the matrices of a layer at 3 to 8 GB/s instead of 17 to 21, and PyTorch most
    of them at 20 to 28 instead of 28 to 35 (`reads_outputs_first`).
    """

    weights_KN: Any

    def __call__(self, x):
        return product(x, self.weights_KN)


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


class Int8Blocks(NamedTuple):
    """Whole numbers in blocks of outputs, widened on the way to the sum, and their scales.

    A scale is for all inputs, or for as many as divide them.
    """

    values: Any  # int8, (blocks, rows, K)
    scales: Any  # float32, (blocks, rows, scales of a row)

    def __call__(self, x):
        return _by_blocks(self._floats, self, x)

    def rows(self, ids):
        return _rows(self._floats, self, ids)

    def _floats(self, values_RK, scales_RB):
        return _scaled(ops.cast(values_RK, "float32"), scales_RB)


class Int4Blocks(NamedTuple):
    """`Int8Blocks` with two numbers a byte: those of the first half of the inputs low, plus 8."""

    values: Any  # uint8, (blocks, rows, K / 2)
    scales: Any  # float32, (blocks, rows, scales of a row)

    def __call__(self, x):
        return _by_blocks(self._floats, self, x)

    def rows(self, ids):
        return _rows(self._floats, self, ids)

    def _floats(self, bytes_RK, scales_RB):
        halves = bytes_RK & 15, ops.right_shift(bytes_RK, 4)
        values_RK = ops.concatenate([ops.cast(half, "float32") - 8.0 for half in halves], axis=-1)
        return _scaled(values_RK, scales_RB)


def _scaled(values_RK, scales_RB):
    rows, blocks = scales_RB.shape
    return ops.reshape(
        ops.reshape(values_RK, (rows, blocks, -1)) * scales_RB[..., None], values_RK.shape
    )


def _by_blocks(floats, layout, x):
    wide_MK = ops.cast(ops.reshape(x, (-1, x.shape[-1])), "float32")
    made = ops.map(lambda block: ops.matmul(floats(*block), ops.transpose(wide_MK)), tuple(layout))
    y_MN = ops.transpose(ops.reshape(made, (-1, wide_MK.shape[0])))
    return ops.cast(ops.reshape(y_MN, (*x.shape[:-1], -1)), x.dtype)


def _rows(floats, layout, ids):
    flat = ops.reshape(ids, (-1,))
    values, scales = (ops.reshape(part, (-1, part.shape[-1])) for part in layout)
    rows = floats(ops.take(values, flat, axis=0), ops.take(scales, flat, axis=0))
    return ops.reshape(rows, (*ids.shape, -1))


def whole_laid_out(whole: WholeNumbers, dtype: str, looked_up: bool = False) -> Any:
    """Whole numbers as the running backend multiplies by them: floats where it does that no better.

    `looked_up` keeps rows together, for a table.
    """
    outputs, inputs = whole.values.shape
    rows = _block_rows(outputs)
    of_halves = inputs // 2 if whole.mode == "int4" else inputs
    even = inputs % 2 == 0 or whole.mode == "int8"
    if not (traits().maps_blocks and rows and even and of_halves % (whole.block or of_halves) == 0):
        return laid_out(ops.cast(whole.floats(), dtype), shared=looked_up)
    values = whole.values
    if whole.mode == "int4":
        low, high = np.split((values + 8).astype("uint8"), 2, axis=1)
        values = low | high << 4
    kind = Int4Blocks if whole.mode == "int4" else Int8Blocks
    return kind(*(lent(part.reshape(-1, rows, part.shape[1])) for part in (values, whole.scales)))


def _block_rows(outputs):
    """Rows of equal blocks, or 0 where there are none of a good size."""
    return next((n for n in range(_LARGEST_BLOCK, 63, -1) if not outputs % n), 0)


def laid_out(weights_NK: Any, shared: bool = False) -> Any:
    """The layout in which the running backend reads a matrix fastest.

    `shared` keeps the array as it is, for a table that would else lie in memory twice.
    """
    known = traits()
    rows = _block_rows(weights_NK.shape[0])
    if known.widens_bfloat16 and rows and str(weights_NK.dtype).endswith("bfloat16"):
        bits = ops.view(weights_NK, "uint16")
        return BFloat16Blocks(ops.reshape(bits, (-1, rows, weights_NK.shape[1])))
    if known.reads_inputs_first and str(weights_NK.dtype).endswith("float32"):
        if not shared and not reads_outputs_first(weights_NK):
            return InputMajor(in_order(ops.transpose(weights_NK)))
        if shared and known.maps_blocks and rows:
            return OutputBlocks(weights_NK)
    return OutputMajor(in_order(weights_NK))
