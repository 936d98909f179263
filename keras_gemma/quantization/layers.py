"""Keras's quantized layers: how whole numbers lie in their variables.

    int8   a kernel as it was, and a number for each output: weight = value / number
    int4   two values a byte, rows being inputs (in a table: outputs); weight = (value - zero) * scale,
           or value / number where a number is for a whole output

Of a kernel of several heads, NDH, Keras makes those rows without moving the heads behind the inputs:
a block of its rows holds every N-th input of a head. Where one scale is given to the N blocks of the
same inputs, it is a block of N times as many inputs as well, and so such a kernel is rounded.

N outputs (of heads: N heads of H), K or D inputs, B or G blocks of inputs, RC rows and columns of Keras.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gemma.quantization.forms import Form
from keras_gemma.quantization.whole_numbers import WholeNumbers, rounded


def _is_table(layer):
    return isinstance(layer, keras.layers.Embedding)


def _variable(layer):
    return "_embeddings" if _is_table(layer) else "_kernel"


def _part(layer, name):
    return getattr(layer, ("embeddings_" if _is_table(layer) else "kernel_") + name)


def _inputs_first(layer):
    """How a kernel's axes become K and N: `(axes of K, axes of N)`."""
    kernel = layer.equation.split("->")[0].split(",")[1]
    summed = [
        axis for axis, letter in enumerate(kernel) if letter not in layer.equation.split("->")[1]
    ]
    return summed, [axis for axis in range(len(kernel)) if axis not in summed]


def matrix_of(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """A layer's weights with a row per output, NK."""
    if _is_table(layer):
        return kernel
    inputs, outputs = _inputs_first(layer)
    count = int(np.prod([kernel.shape[axis] for axis in outputs]))
    return kernel.transpose(*outputs, *inputs).reshape(count, -1)


def kernel_of(layer: Any, matrix_NK: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The other way round: the kernel, in its `shape`."""
    if _is_table(layer):
        return matrix_NK
    inputs, outputs = _inputs_first(layer)
    order = [*outputs, *inputs]
    return matrix_NK.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def emptied(layer: Any, form: Form) -> None:
    """Turn a layer of floats to a quantized one, whose numbers are still to be assigned."""
    shape = tuple(getattr(layer, _variable(layer)).shape)
    config = (
        keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
        if form.mode == "int8"
        else keras.quantizers.Int4QuantizationConfig(
            activation_quantizer=None, block_size=form.block
        )
    )
    layer._tracker.unlock()
    _without(layer, _variable(layer))
    layer.quantization_config = config
    with layer._open_name_scope():  # a variable's path begins with it
        layer.quantized_build(shape, form.mode, config)
    layer.dtype_policy = f"{form.policy}_from_{layer.dtype_policy.name}"
    layer._tracker.lock()


def _without(layer, name):
    """As `delattr`, for which Keras collects all garbage: 0.2 seconds for each of many layers."""
    layer._untrack_variable(getattr(layer, name))
    super(keras.layers.Layer, layer).__delattr__(name)


def quantize_layer(layer: Any, form: Form) -> None:
    """Round a layer's weights; Keras's own rounding does not see how scales are kept."""
    variable = getattr(layer, _variable(layer))
    dtype, shape = keras.utils.standardize_dtype(variable.dtype), tuple(variable.shape)
    kernel = np.asarray(ops.convert_to_numpy(variable))
    del variable
    heads = _torn_heads(layer, shape) if form.mode == "int4" else 1
    if heads == 1:
        whole = rounded(matrix_of(layer, kernel), *form, dtype=dtype)
    elif _keeps_blocks(shape, form.block):
        whole = rounded(matrix_of(layer, kernel), form.mode, form.block * heads, dtype)
        values = kernel_of(layer, whole.values, shape).reshape(-1, heads * shape[2])
        scales_NHG = whole.scales.reshape(heads, shape[2], -1)
        scales_GH = scales_NHG.transpose(0, 2, 1).reshape(-1, shape[2])
        whole = whole._replace(
            values=values.T, scales=np.tile(scales_GH, heads).T, block=form.block
        )
    else:
        whole = rounded(kernel.reshape(-1, heads * shape[2]).T, *form, dtype=dtype)
    emptied(layer, form)
    _assign(layer, whole, shape)


def _torn_heads(layer, shape):
    """Of a kernel NDH, whose heads' inputs int4 tears apart; else 1."""
    return 1 if _is_table(layer) or 0 in _inputs_first(layer)[0] else shape[0]


def _keeps_blocks(shape, block):
    """Whether blocks of rows of a kernel NDH are those of one head."""
    heads, inputs = shape[:2]
    return bool(block) and inputs % (heads * block) == 0


def _assign(layer, whole, shape):
    variable = getattr(layer, _variable(layer))
    if whole.mode == "int8":
        variable.assign(kernel_of(layer, whole.values, shape))
    else:
        variable.assign(_nibbles(whole.values if _is_table(layer) else whole.values.T))
    scale = _part(layer, "scale")
    if whole.block is None:
        inverse = np.divide(
            1, whole.scales, out=np.ones_like(whole.scales), where=whole.scales != 0
        )
        scale.assign(inverse.reshape(scale.shape))
    else:
        scale.assign(whole.scales if _is_table(layer) else whole.scales.T)
        _part(layer, "zero").assign(np.zeros(scale.shape, "int8"))


def _nibbles(values):
    """Two values a byte along the last axis, the lower half first."""
    padded = np.pad(values, [(0, 0), (0, values.shape[1] % 2)])
    return (padded[:, ::2] & 15) | (padded[:, 1::2] << 4)


def floats_of(layer: Any) -> np.ndarray:
    """A quantized layer's weights as floats, in the shape that they had."""
    whole, zero = _as_kept(layer), 0
    if whole.block is not None:
        zero = np.asarray(ops.convert_to_numpy(_part(layer, "zero")))
        zero = np.repeat(zero if _is_table(layer) else zero.T, whole.block, axis=1)
        zero = zero[:, : whole.values.shape[1]]
    matrix_NK = whole._replace(values=whole.values.astype("int16") - zero).floats()
    if layer.quantization_mode == "int4" and not _is_table(layer):
        return matrix_NK.T.reshape(_shape(layer))
    return kernel_of(layer, matrix_NK, _shape(layer))


def _shape(layer):
    if _is_table(layer):
        return layer.input_dim, layer.output_dim
    if layer.quantization_mode == "int4":
        return tuple(layer.original_kernel_shape)
    return tuple(layer._kernel.shape)


def stored(layer: Any) -> WholeNumbers | None:
    """The numbers of a quantized layer with a row per output; `None` where there are no such.

    It has none if it is not quantized, if several outputs share a scale, or if LoRA is added to it.

    Raises:
        ValueError: they are quantized in another way than `quantize` here does it.
    """
    if layer.quantization_mode is None:
        return None
    if not is_known(layer):
        raise ValueError(f"{layer.path} is quantized in a way that has no plan.")
    if layer.lora_enabled:
        return None
    shape, kept = _shape(layer), _as_kept(layer)
    heads = _torn_heads(layer, shape) if layer.quantization_mode == "int4" else 1
    if heads == 1:
        return kept
    if not _keeps_blocks(shape, kept.block):
        return None
    scales_NGRH = kept.scales.T.reshape(heads, -1, heads, shape[2])
    if (scales_NGRH != scales_NGRH[:, :, :1]).any():
        return None
    scales_NHG = scales_NGRH[:, :, 0].transpose(0, 2, 1)
    scales = np.repeat(scales_NHG.reshape(heads * shape[2], -1), heads, axis=1)
    return kept._replace(values=matrix_of(layer, kept.values.T.reshape(shape)), scales=scales)


def _as_kept(layer):
    """A column, or in a table a row, of what Keras keeps is an output here."""
    mode = layer.quantization_mode
    kernel = np.asarray(ops.convert_to_numpy(getattr(layer, _variable(layer))))
    scale = np.asarray(ops.convert_to_numpy(ops.cast(_part(layer, "scale"), "float32")))
    if mode == "int8":
        return WholeNumbers("int8", matrix_of(layer, kernel), _of_outputs(1 / scale))
    columns = layer.output_dim if _is_table(layer) else layer._int4_unpacked_column_size
    low, high = (kernel << 4) >> 4, kernel >> 4  # of int8: the sign is kept
    values = np.stack([low, high], -1).reshape(len(kernel), -1)[:, :columns]
    if not _is_table(layer):
        values, scale = values.T, scale.T
    block = layer._int4_block_size
    if block in (None, -1):
        return WholeNumbers("int4", values, _of_outputs(1 / scale))
    return WholeNumbers("int4", values, scale, block)


def _of_outputs(scale):
    return scale.reshape(-1, 1)


def is_known(layer: Any) -> bool:
    """Whether `stored` can tell a layer's numbers: weights alone are rounded, around zero."""
    if layer.quantization_mode is None:
        return True
    if layer.quantization_mode not in ("int8", "int4"):
        return False
    if layer.inputs_quantizer is not None or (_is_table(layer) and layer.lora_enabled):
        return False
    if layer.quantization_mode == "int8" or layer._int4_block_size in (None, -1):
        return True
    return not np.asarray(ops.convert_to_numpy(_part(layer, "zero"))).any()
