"""`model.quantize("int8")`: weights as whole numbers, in the variables of Keras's quantized layers."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_gemma.conversion.tensors import Quantized
from keras_gemma.layers import Dense
from keras_gemma.presets import BadPresetError
from keras_gemma.quantization import Form, emptied, form_of, quantize_layer


class Quantizable:
    """`quantize` for a backbone; a task has it by way of its backbone."""

    @property
    def quantize(self) -> Callable[..., None]:
        """Round the weights: see `_quantize`, which this is."""
        return self._quantize

    @quantize.setter
    def quantize(self, wrapped):
        """Keras wraps the method of each model, and makes a configuration of its own of a mode."""

    def _quantize(self, mode: str | None = None, config: Any = None, filters: Any = None) -> None:
        """Keep the weights as whole numbers of 8 or 4 bits; activations stay floats.

        There is no way back: load the model again for its floats. A quantized model generates,
        scores, is saved and loaded as any other; of its weights only norms and LoRA are trained.

        Args:
            mode: `"int8"`, a scale for each output, or `"int4"`, one for each 32 inputs.
            config: `keras.quantizers.Int4QuantizationConfig(block_size=...)`, for other blocks. The
                CPU kernels read blocks of 32 as they are.
            filters: which layers: a regular expression for their names, a list of such, or a
                function of the layer; all that can be, if left out.

        Raises:
            ValueError: the mode is not known, or a layer is quantized already or carries LoRA.
        """
        form = form_of(mode, config)
        chosen = [layer for layer in quantizable_layers(self) if _passes(layer, filters)]
        for layer in chosen:
            carries_lora = layer.lora_enabled or (isinstance(layer, Dense) and layer.branches)
            if layer.quantization_mode or carries_lora:
                what = "carries LoRA" if carries_lora else "is quantized already"
                raise ValueError(f"{layer.path} {what}: load the model anew to quantize it.")
        for layer in chosen:
            quantize_layer(layer, form)
        self._forget_programs(form.mode)

    def _forget_programs(self, mode):
        """What Keras compiled is of the variables that were; PyTorch has lists of them, too."""
        self.train_function = self.test_function = self.predict_function = None
        self._post_quantize(mode)

    def prepare_quantized(self, form_at: Callable[[str], Form | None]) -> None:
        """Make place for whole numbers that are about to be loaded: `form_at` is given each path."""
        for layer in quantizable_layers(self):
            if form := form_at(layer.path):
                emptied(layer, form)


def load_quantized(model: Any, weights: Mapping[str, Quantized]) -> None:
    """Turn those layers that a checkpoint has as whole numbers to such, and fill them."""
    named = {path.rpartition("/")[0]: weight for path, weight in weights.items()}
    for layer in quantizable_layers(model):
        if weight := named.get(layer.path):
            emptied(layer, Form(weight.mode, weight.block))
            arrays = weight.read()
            if not np.isfinite(arrays[1].astype("float32")).all():
                raise BadPresetError(f"{weight.theirs} has scales that are not finite numbers.")
            layer.load_own_variables({str(at): array for at, array in enumerate(arrays)})


def quantizable_layers(model: Any) -> list:
    """The layers with large matrices: the embedding and all dense ones."""
    kinds = keras.layers.EinsumDense, keras.layers.ReversibleEmbedding
    return [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]


def _passes(layer, filters):
    if filters is None:
        return True
    if callable(filters):
        return bool(filters(layer))
    patterns = [filters] if isinstance(filters, str) else filters
    return any(re.search(pattern, layer.name) for pattern in patterns)


def policy_of_all(model: Any) -> Any:
    """The dtype policy of a model's layers together, as KerasHub writes it into a preset."""
    layers = [layer for layer in quantizable_layers(model) if layer.quantization_mode]
    if not layers:
        return model.dtype_policy
    table = {layer.path: layer.dtype_policy for layer in layers}
    return keras.dtype_policies.DTypePolicyMap(model.dtype_policy.name, table)


def plain_policy(dtype: Any) -> tuple[Any, Callable[[str], Form | None]]:
    """`(policy of floats, form of the layer at a path)` of a dtype, quantized or not."""
    policy = keras.dtype_policies.get(dtype)
    table: Mapping[str, Any] = {}
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        table = {path: policy[path] for path in policy}
        policy = policy.default_policy
    form = _form(policy)
    if form:
        policy = keras.dtype_policies.get(policy.name.partition("_from_")[2])
    return policy, lambda path: _form(table[path]) if path in table else form


def _form(policy):
    mode = policy.quantization_mode
    if mode is None:
        return None
    if mode not in ("int8", "int4"):
        raise ValueError(f"dtype={policy.name!r} is quantized in a way that is not known here.")
    block = getattr(policy, "block_size", None)
    return Form(mode, None if block == -1 else block)
