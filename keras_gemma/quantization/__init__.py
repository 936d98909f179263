"""Weights as whole numbers with scales, in the variables of Keras's own quantized layers."""

from keras_gemma.quantization.forms import Form, form_of
from keras_gemma.quantization.layers import (
    emptied,
    floats_of,
    is_known,
    matrix_of,
    quantize_layer,
    stored,
)
from keras_gemma.quantization.whole_numbers import WholeNumbers, rounded

__all__ = [
    "Form",
    "WholeNumbers",
    "emptied",
    "floats_of",
    "form_of",
    "is_known",
    "matrix_of",
    "quantize_layer",
    "rounded",
    "stored",
]
