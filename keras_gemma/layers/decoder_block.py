"""A decoder block: norm, attend, add; norm, feed, add.

B batch, T tokens, D model width, F feed-forward width (one branch).
"""

import dataclasses

import keras

from keras_gemma.config import GemmaConfig
from keras_gemma.layers.attention import GemmaAttention
from keras_gemma.layers.dense import Dense
from keras_gemma.layers.fan_in import FanIn
from keras_gemma.layers.gated_gelu import gated_gelu
from keras_gemma.layers.positions import Positions
from keras_gemma.layers.remat import rematerialized
from keras_gemma.layers.rms_normalization import RMSNormalization


class BlockFormula:
    """What a block computes, whoever holds its weights: a layer, or a plan for decoding."""

    def call(self, x_BTD, positions, cache=(), training=False):
        config = self.config
        y_BTD = self.pre_attention_norm(x_BTD)
        y_BTD, cache = self.attention(y_BTD, positions, cache, training=training)
        if config.use_post_attention_norm:
            y_BTD = self.post_attention_norm(y_BTD)
        if config.dropout:
            y_BTD = self.attention_dropout(y_BTD, training=training)
        x_BTD = x_BTD + y_BTD

        y_BTD = self.feed_forward(self.pre_ffw_norm(x_BTD), training)
        if config.use_post_ffw_norm:
            y_BTD = self.post_ffw_norm(y_BTD)
        if config.dropout:
            y_BTD = self.feedforward_dropout(y_BTD, training=training)
        return x_BTD + y_BTD, cache

    def feed_forward(self, x_BTD, training=False):
        """GeGLU (arXiv 2002.05202) with the tanh form of GELU."""
        gate_BTF, value_BTF = self.gate_and_value(x_BTD, training)
        return self.ffw_linear(gated_gelu(gate_BTF, value_BTF, training), training=training)


@keras.saving.register_keras_serializable(package="keras_gemma")
class GemmaDecoderBlock(BlockFormula, keras.layers.Layer):
    """One of the model's layers. Calls and returns as `GemmaAttention` does.

    Attribute and layer names are those of published weight files; renaming one moves weights.
    """

    def __init__(self, config: GemmaConfig, layer: int, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.config = config = GemmaConfig.of(config)
        self.layer = layer
        self.remat = False  # of a step of training keep the inputs only, and compute the rest again
        width, branch = config.hidden_dim, config.intermediate_dim
        self.pre_attention_norm = self._norm("pre_attention_norm")
        if config.use_post_attention_norm:
            self.post_attention_norm = self._norm("post_attention_norm")
        self.attention = GemmaAttention(config, layer, dtype=self.dtype_policy, name="attention")
        self.pre_ffw_norm = self._norm("pre_ffw_norm")
        if config.use_post_ffw_norm:
            self.post_ffw_norm = self._norm("post_ffw_norm")
        self.gating_ffw = self._dense("btd,df->btf", branch, width, "ffw_gating")
        self.gating_ffw_2 = self._dense("btd,df->btf", branch, width, "ffw_gating_2")
        self.ffw_linear = self._dense("btf,fd->btd", width, branch, "ffw_linear")
        if config.dropout:
            self.attention_dropout = self._dropout("attention_dropout")
            self.feedforward_dropout = self._dropout("feedforward_dropout")

    def _norm(self, name):
        epsilon = self.config.layer_norm_epsilon
        return RMSNormalization(epsilon, dtype=self.dtype_policy, name=name)

    def _dropout(self, name):
        return keras.layers.Dropout(self.config.dropout, dtype=self.dtype_policy, name=name)

    def _dense(self, equation, outputs, fan_in, name):
        return Dense(
            equation,
            (None, outputs),
            kernel_initializer=FanIn(fan_in),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, shape_BTD):
        # Keras would trace a pass through all of it instead, which takes most of a model's making.
        self.pre_attention_norm.build(shape_BTD)
        self.attention.build(shape_BTD)
        self.pre_ffw_norm.build(shape_BTD)
        for dense in (self.gating_ffw, self.gating_ffw_2):
            dense.build(shape_BTD)
        self.ffw_linear.build((*shape_BTD[:-1], self.config.intermediate_dim))
        if self.config.use_post_attention_norm:
            self.post_attention_norm.build(shape_BTD)
        if self.config.use_post_ffw_norm:
            self.post_ffw_norm.build(shape_BTD)

    def call(self, x_BTD, positions, cache=(), training=False):
        positions = Positions(*positions)  # in a graph that Keras read from a file it is any tuple
        if not (self.remat and training):
            return super().call(x_BTD, positions, cache, training)
        whole = super().call
        return rematerialized(lambda x: whole(x, positions, (), True)[0], self)(x_BTD), cache

    def gate_and_value(self, x_BTD, training):
        # Said in so many words: where a block is computed again, Keras knows nothing of a call around it.
        gate_BTF = self.gating_ffw(x_BTD, training=training)
        return gate_BTF, self.gating_ffw_2(x_BTD, training=training)

    def compute_output_spec(self, x_BTD, positions, cache=(), training=False):
        return keras.KerasTensor(x_BTD.shape, self.compute_dtype), cache

    def get_config(self):
        config = dataclasses.asdict(self.config)
        return {**super().get_config(), "config": config, "layer": self.layer}


@keras.saving.register_keras_serializable(package="keras_gemma")
class Gemma3DecoderBlock(GemmaDecoderBlock):
    """The same block under the class name that Gemma 3's published weight files carry."""
