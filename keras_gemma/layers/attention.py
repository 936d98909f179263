"""Attention: the one step of Gemma in which tokens read each other.

B batch, T queries, S keys, D model width, N query heads, K key heads, H head width.
"""

import keras

from keras_gemma.config import GemmaConfig
from keras_gemma.layers.attend import attend
from keras_gemma.layers.dense import Dense
from keras_gemma.layers.fan_in import FanIn
from keras_gemma.layers.rms_normalization import RMSNormalization
from keras_gemma.layers.rotary import rotate


class AttentionFormula:
    """What attention computes, whoever holds its weights: a layer, or a plan for decoding."""

    def call(self, x_BTD, positions, cache=(), training=False):
        rules = self.rules
        q_BTNH, k_BSKH, v_BSKH = self.query_key_value(x_BTD)
        if rules.normalize_query_key:
            q_BTNH, k_BSKH = self.query_norm(q_BTNH), self.key_norm(k_BSKH)
        q_BTNH = rotate(q_BTNH, positions.index, rules.rope_base, rules.rope_scaling)
        k_BSKH = rotate(k_BSKH, positions.index, rules.rope_base, rules.rope_scaling)
        if cache:  # look at the past as well as the present
            y_BTNH, cache = cache.attend(q_BTNH, k_BSKH, v_BSKH, positions, rules)
        else:
            drop = self.dropout_layer if training else None
            y_BTNH = attend(q_BTNH, k_BSKH, v_BSKH, positions, positions, rules, drop)
        return self.output_dense(y_BTNH), cache


class GemmaAttention(AttentionFormula, keras.layers.Layer):
    """Grouped-query attention with rotary positions.

    Call arguments:
        x_BTD: activations.
        positions: `Positions` of those tokens.
        cache: this layer's cache, or `()` when nothing is remembered. A cache is asked one
            thing, `attend(q, k, v, positions, rules)`: what of it those tokens see, and the cache
            that remembers them.

    Returns:
        `(y_BTD, cache)`; the cache now also holds these tokens.
    """

    def __init__(self, config: GemmaConfig, layer: int, **kwargs):
        super().__init__(autocast=False, **kwargs)  # a cache keeps its own dtypes
        self.rules = rules = config.attention_rules(layer)
        heads, width = rules.num_query_heads, config.hidden_dim
        groups, head = rules.num_key_value_heads, rules.head_dim
        self.query_dense = self._dense("btd,ndh->btnh", (heads, head), width, "query")
        self.key_dense = self._dense("bsd,kdh->bskh", (groups, head), width, "key")
        self.value_dense = self._dense("bsd,kdh->bskh", (groups, head), width, "value")
        if rules.normalize_query_key:
            self.query_norm = self._norm(config, "query_norm")
            self.key_norm = self._norm(config, "key_norm")
        self.output_dense = self._dense("btnh,nhd->btd", (width,), heads * head, "attention_output")
        self.dropout_layer = None
        if config.dropout:
            self.dropout_layer = keras.layers.Dropout(config.dropout, dtype=self.dtype_policy)

    def _dense(self, equation, shape, fan_in, name):
        return Dense(
            equation,
            (None, *shape),
            kernel_initializer=FanIn(fan_in),
            dtype=self.dtype_policy,
            name=name,
        )

    def _norm(self, config, name):
        return RMSNormalization(config.layer_norm_epsilon, dtype=self.dtype_policy, name=name)

    def build(self, shape_BTD):
        shape_BTNH = (*shape_BTD[:-1], self.rules.num_query_heads, self.rules.head_dim)
        shape_BSKH = (*shape_BTD[:-1], self.rules.num_key_value_heads, self.rules.head_dim)
        for dense in (self.query_dense, self.key_dense, self.value_dense):
            dense.build(shape_BTD)
        if self.rules.normalize_query_key:
            self.query_norm.build(shape_BTNH)
            self.key_norm.build(shape_BSKH)
        self.output_dense.build(shape_BTNH)

    def query_key_value(self, x_BTD):
        return self.query_dense(x_BTD), self.key_dense(x_BTD), self.value_dense(x_BTD)

    def compute_output_spec(self, x_BTD, positions, cache=(), training=False):
        return keras.KerasTensor(x_BTD.shape, self.compute_dtype), cache
