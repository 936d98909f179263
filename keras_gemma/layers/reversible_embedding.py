"""One table for both ends of the model: ids to vectors, vectors to logits.

V vocabulary, D model width.
"""

import contextlib
import dataclasses

import keras
from keras import ops

from keras_gemma.config import GemmaConfig
from keras_gemma.layers.attend import soft_capped
from keras_gemma.layers.fan_in import FanIn
from keras_gemma.layers.tied_lookup import tied_lookup


def scaled(vectors_BTD):
    """Rows of the table as a model reads them: times `sqrt(D)`."""
    # The factor is rounded to the activations' dtype first, as the original does: in
    # bfloat16 it is 55.5 for the 7B, not 55.43.
    return vectors_BTD * ops.cast(vectors_BTD.shape[-1] ** 0.5, vectors_BTD.dtype)


@keras.saving.register_keras_serializable(package="keras_gemma")
class ReversibleEmbedding(keras.layers.ReversibleEmbedding):
    """Ids to vectors times `sqrt(D)`; with `reverse=True` hidden states to (capped) logits."""

    _is_tied, _tied_table = False, None

    def __init__(self, config: GemmaConfig, **kwargs):
        self.config = config = GemmaConfig.of(config)
        super().__init__(
            config.vocabulary_size,
            config.hidden_dim,
            tie_weights=True,
            # Scaled vectors then have unit variance, and so have the first logits.
            embeddings_initializer=FanIn(config.hidden_dim),
            logit_soft_cap=config.final_logit_soft_cap,
            **kwargs,
        )

    def call(self, inputs, reverse=False):
        if self._is_tied and not reverse:
            table_VD = ops.cast(self.embeddings, self.compute_dtype)
            vectors_BTD, self._tied_table = tied_lookup(ops.cast(inputs, "int32"), table_VD)
            return scaled(vectors_BTD)
        outputs = super().call(inputs, reverse=reverse)
        if reverse:
            return outputs
        return scaled(outputs)

    def table(self):
        """What both ways multiply with and look up, VD, in the dtype of activations."""
        if self._tied_table is not None:
            return self._tied_table
        if self.quantization_mode is None:
            return ops.cast(self.embeddings, self.compute_dtype)
        return self._dequantized(ops.arange(self.input_dim, dtype="int32"))

    @contextlib.contextmanager
    def tied(self, wanted: bool = True):
        """While this lasts, `table()` is that of the last lookup, and the gradients of both are one, if `wanted`.

        Of lower precision they stay two: what is added to a large sum is lost.
        """
        plain = self.quantization_mode is None and not self.lora_enabled and self.trainable
        exact = self.compute_dtype == self.variable_dtype == "float32"
        self._is_tied = wanted and plain and exact
        try:
            yield
        finally:
            self._is_tied, self._tied_table = False, None

    def quantized_call(self, inputs, reverse=False):
        outputs = self._dequantized(inputs, reverse)
        return outputs if reverse else scaled(outputs)

    def _dequantized(self, inputs, reverse=False):
        # Scales are of the variables' dtype, which under a mixed policy is another.
        outputs = super().quantized_call(inputs, reverse=reverse)
        return ops.cast(outputs, self.compute_dtype)

    def _int8_call(self, inputs, reverse=False):
        if not reverse or self.inputs_quantizer:
            return super()._int8_call(inputs, reverse=reverse)
        return self._logits_of_whole_numbers(inputs, self._embeddings)

    def _int4_call(self, inputs, reverse=False):
        in_blocks = self._int4_block_size not in (None, -1)
        if not reverse or self.inputs_quantizer or in_blocks:
            return super()._int4_call(inputs, reverse=reverse)
        table = keras.quantizers.unpack_int4(self._embeddings, self.output_dim, axis=-1)
        return self._logits_of_whole_numbers(inputs, table)

    def _logits_of_whole_numbers(self, inputs, table):
        # Keras transposes the scales, a vector, of which PyTorch warns.
        logits = ops.matmul(inputs, ops.transpose(table))
        logits = ops.cast(logits, self.compute_dtype) / self.embeddings_scale
        return logits if self.logit_soft_cap is None else soft_capped(logits, self.logit_soft_cap)

    def get_config(self):
        config = keras.layers.Layer.get_config(self)
        return {**config, "config": dataclasses.asdict(self.config)}
