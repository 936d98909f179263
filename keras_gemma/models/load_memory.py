"""Memory for the weights of a preset, looked at before they are read."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_gemma import device_memory
from keras_gemma.conversion.checkpoint import Checkpoint
from keras_gemma.conversion.tensors import Quantized
from keras_gemma.out_of_memory import OutOfMemoryError, explained
from keras_gemma.presets.sizes import BYTES_PER_NUMBER, megabytes, weight_shapes

_BITS = {"int8": 8, "int4": 4}


@contextlib.contextmanager
def memory_for_weights(
    preset: str | Path, checkpoint: Checkpoint, dtype: Any, quantized: Mapping[str, Quantized]
) -> Iterator[None]:
    """Around the making of a preset's model of that dtype, some of whose weights stay whole numbers.

    Raises:
        OutOfMemoryError: its weights don't fit. Where memory is the machine's own, that is told before
            any is taken: the system may end such a process without a word.
    """
    dtype = keras.dtype_policies.get(dtype).variable_dtype
    width, needed = BYTES_PER_NUMBER.get(dtype, 4), 0
    for path, shape in weight_shapes(checkpoint.backbone, checkpoint.config).items():
        bits = _BITS[quantized[path].mode] if path in quantized else 8 * width
        needed += math.prod(shape) * bits // 8
    free = device_memory.free()

    def explanation():
        what = f"{preset} does not fit in memory: its weights take {megabytes(needed)}"
        room = "" if free is None else f", and {megabytes(max(free, 0))} are free"
        half = 'dtype="bfloat16" takes half of that. ' if width > 2 and not quantized else ""
        return (
            f"{what}{room}. {half}Otherwise end what else takes memory, or load a smaller preset, or "
            'one saved after quantize("int8") where there was room.'
        )

    if device_memory.is_hosts() and free is not None and needed > free:
        raise OutOfMemoryError(explanation())
    with explained(explanation):
        yield
