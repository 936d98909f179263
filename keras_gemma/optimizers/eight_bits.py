"""Optimizer state in 8 bits a number (arXiv 2110.02861): blocks that share a scale, rounded by chance.

A code is a root of its number, so that small ones have levels of their own: 127 levels of a square for
means, 255 levels of a fourth power for means of squares, of which Adam takes the root. Either reaches
from a block's largest number down to 1/16,000 of it as a step sees it. The paper's code is a table
with as wide a reach; this one is computed. Rounding to the nearest level would hold a mean where it
is, for a memory of 0.999 moves it by less than a level.

N blocks, B numbers in each.
"""

from typing import Any, NamedTuple

from keras import ops

BLOCK = 256
_SMALLEST = 2.0**-126  # of a float32 in its normal form: what an empty block is divided by


class Code(NamedTuple):
    """How numbers from 0 to 1 become whole ones: the `power`-th root of them, in `levels`."""

    dtype: str
    levels: int
    power: int  # 2 or 4

    def decode(self, codes_NB: Any, scale_N1: Any) -> Any:
        """float32, the numbers that codes of this kind stand for."""
        codes_NB = ops.cast(codes_NB, "float32")
        return ops.sign(codes_NB) * self.value(ops.abs(codes_NB)) * scale_N1

    def encode(self, x_NB: Any, uniform_NB: Any) -> tuple[Any, Any]:
        """Codes, and the scale of each block: its largest magnitude, float32.

        Args:
            x_NB: float32.
            uniform_NB: float32 in [0, 1), what decides between two levels. At 0.5 all over, the
                nearest is taken.
        """
        scale_N1 = ops.max(ops.abs(x_NB), axis=-1, keepdims=True)
        share_NB = ops.abs(x_NB) / ops.maximum(scale_N1, _SMALLEST)
        root_NB = ops.sqrt(share_NB) if self.power == 2 else ops.sqrt(ops.sqrt(share_NB))
        low_NB = ops.minimum(ops.floor(root_NB * self.levels), self.levels - 1)
        low_value_NB = self.value(low_NB)
        part_NB = (share_NB - low_value_NB) / (self.value(low_NB + 1) - low_value_NB)
        code_NB = low_NB + ops.cast(part_NB > uniform_NB, "float32")
        return ops.cast(ops.sign(x_NB) * code_NB, self.dtype), scale_N1

    def value(self, level: Any) -> Any:
        """What a level stands for, from 0 to 1."""
        square = ops.square(level / self.levels)
        return square if self.power == 2 else ops.square(square)


MEANS = Code("int8", 127, 2)
SQUARES = Code("uint8", 255, 4)
