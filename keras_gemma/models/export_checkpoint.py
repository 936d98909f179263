"""A model in memory to a checkpoint that others read."""

from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_gemma.arrays import fetch
from keras_gemma.conversion.checkpoint import Source
from keras_gemma.conversion.convert import target_format
from keras_gemma.conversion.formats import FORMATS
from keras_gemma.models.quantizable import quantizable_layers
from keras_gemma.quantization import floats_of


def export_checkpoint(
    model: Any,
    path: str | Path,
    format: str | None = None,
    dtype: str | None = None,
    chats: bool | None = None,
) -> Path:
    """Write a model's weights, configuration and tokenizer in another format.

    Args:
        model: a `GemmaCausalLM`, or a backbone (then without tokenizer).
        path: a folder that is new or empty, or a file where the format is one file. It appears
            whole or not at all.
        format: `"huggingface"` (a folder for Transformers), `"keras_hub"` (a preset folder),
            `"gemma_pytorch"` (a `.ckpt`) or `"gguf"` (for llama.cpp); `.gguf` and `.ckpt` tell it
            themselves.
        dtype: of the written numbers: `"float32"`, `"bfloat16"`, `"float16"`, and in GGUF also
            `"q8_0"` and `"q4_0"`; the model's own if left out.
        chats: whether the model was tuned on turns: then GGUF and Transformers' folders say how they
            are written. If left out, yes where the vocabulary has their tokens, which that of the
            published base models has, too.

    Returns:
        The path.

    Raises:
        ValueError: there is no such format, or it does not hold such numbers.
    """
    path = Path(path).expanduser()
    name = target_format(path, format)
    backbone = getattr(model, "backbone", model)
    preprocessor = getattr(model, "preprocessor", None)
    variables = {variable.path: variable for variable in backbone.variables}
    quantized = {
        layer.path: layer for layer in quantizable_layers(backbone) if layer.quantization_mode
    }

    adapted = {layer.path: layer for layer in backbone._dense_layers() if layer.active}

    def numbers(weight):
        place = weight.rpartition("/")[0]
        if place in adapted:
            return np.asarray(ops.convert_to_numpy(ops.cast(adapted[place].kernel, "float32")))
        return floats_of(quantized[place]) if place in quantized else fetch(variables[weight])

    source = Source(
        type(backbone).__name__,
        backbone.get_config(),
        dtype or backbone.dtype_policy.variable_dtype,
        numbers,
        preprocessor.tokenizer.proto if preprocessor is not None else None,
        8192,
        chats,
    )
    FORMATS[name].save(path, source)
    return path
