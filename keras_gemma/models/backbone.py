"""The backbones: Keras models from token ids to hidden states, spelled as KerasHub spells them."""

import dataclasses
from typing import Any

import keras

from keras_gemma.config import GemmaConfig
from keras_gemma.distribution import gemma_layout_map
from keras_gemma.layers import Gemma3DecoderBlock, GemmaDecoderBlock, TokenPositions
from keras_gemma.models.decoder_stack import DecoderStack
from keras_gemma.models.lora import Adaptable
from keras_gemma.models.preset_model import PresetBackbone
from keras_gemma.models.quantizable import Quantizable, plain_policy, policy_of_all


class DecoderBackbone(Adaptable, Quantizable, PresetBackbone):
    """What the spellings share: a functional model over one `DecoderStack`.

    Inputs are `token_ids` and `padding_mask`, int32 (batch, length). The mask may carry segment
    numbers: 0 is padding, 1, 2, … the document a token belongs to; ones mean one document.
    The output is (batch, length, hidden_dim).
    """

    block_class = GemmaDecoderBlock

    def __init__(self, config: GemmaConfig, dtype=None, **kwargs):
        policy, form_at = plain_policy(dtype or keras.config.dtype_policy())
        stack = DecoderStack.create(config, policy, self.block_class)
        inputs = {
            name: keras.Input((None,), dtype="int32", name=name)
            for name in ("token_ids", "padding_mask")
        }
        positions = TokenPositions(name="token_positions")(inputs["padding_mask"])
        hidden, _ = stack.hidden_states(inputs["token_ids"], positions)
        super().__init__(inputs=inputs, outputs=hidden, **kwargs)
        self.dtype_policy = policy
        self.stack = stack
        for name, value in self._arguments().items():  # `backbone.num_layers`, as in KerasHub
            setattr(self, name, value)
        self.prepare_quantized(form_at)

    @property
    def config(self) -> GemmaConfig:
        """The sizes and options of this model."""
        return self.stack.config

    @property
    def token_embedding(self) -> keras.Layer:
        """The layer that turns ids to vectors and, with `reverse=True`, vectors to logits."""
        return self.stack.token_embedding

    @property
    def transformer_layers(self) -> list[keras.Layer]:
        """The decoder blocks, first to last."""
        return list(self.stack.blocks)

    @property
    def layer_norm(self) -> keras.Layer:
        """The normalization after the last block."""
        return self.stack.final_norm

    def _arguments(self) -> dict[str, Any]:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(policy_of_all(self)),
            **self._arguments(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.deserialize(config["dtype"])
        return cls(**config)

    @classmethod
    def get_layout_map(
        cls,
        device_mesh,
        model_parallel_dim_name: str = "model",
        data_parallel_dim_name: str = "batch",
        config: GemmaConfig | None = None,
    ):
        """A `keras.distribution.LayoutMap` that places every kernel on `device_mesh`.

        A map sees paths, never head counts: without `config`, keys and values stay whole over
        the model axis, which is right for every Gemma; with it they are split where they divide.
        """
        return gemma_layout_map(
            device_mesh, model_parallel_dim_name, data_parallel_dim_name, config
        )


@keras.saving.register_keras_serializable(package="keras_gemma")
class GemmaBackbone(DecoderBackbone):
    """Gemma and Gemma 2 from token ids to hidden states.

    Arguments are KerasHub's, in its order. `intermediate_dim` counts both branches of the
    feed-forward layer (32768 for the 2B). With `use_sliding_window_attention`, layers 0, 2, 4, …
    look back on `sliding_window_size` tokens.

    >>> backbone = GemmaBackbone(vocabulary_size=256, num_layers=2, num_query_heads=4,
    ...     num_key_value_heads=1, hidden_dim=32, intermediate_dim=128, head_dim=8)
    >>> ids = keras.ops.ones((1, 5), "int32")
    >>> tuple(backbone({"token_ids": ids, "padding_mask": ids}).shape)
    (1, 5, 32)
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        head_dim: int,
        query_head_dim_normalize: bool = True,
        use_post_ffw_norm: bool = False,
        use_post_attention_norm: bool = False,
        attention_logit_soft_cap: float | None = None,
        final_logit_soft_cap: float | None = None,
        use_sliding_window_attention: bool = False,
        sliding_window_size: int = 4096,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0,
        dtype: Any = None,
        **kwargs: Any,
    ):
        if isinstance(intermediate_dim, int) and intermediate_dim % 2:
            raise ValueError(
                f"intermediate_dim={intermediate_dim} counts both branches of the feed-forward "
                "layer and must be even."
            )
        config = GemmaConfig(
            vocabulary_size,
            num_layers,
            num_query_heads,
            num_key_value_heads,
            hidden_dim,
            intermediate_dim // 2,
            head_dim,
            query_head_dim_normalize=query_head_dim_normalize,
            use_post_ffw_norm=use_post_ffw_norm,
            use_post_attention_norm=use_post_attention_norm,
            attention_logit_soft_cap=attention_logit_soft_cap,
            final_logit_soft_cap=final_logit_soft_cap,
            use_sliding_window_attention=use_sliding_window_attention,
            sliding_window_size=sliding_window_size,
            layer_norm_epsilon=layer_norm_epsilon,
            dropout=dropout,
        )
        super().__init__(config, dtype, **kwargs)

    def _arguments(self):
        sizes = dataclasses.asdict(self.config)
        arguments = {name: sizes[name] for name in _GEMMA_ARGUMENTS}
        return {**arguments, "intermediate_dim": 2 * sizes["intermediate_dim"]}


@keras.saving.register_keras_serializable(package="keras_gemma")
class Gemma3Backbone(DecoderBackbone):
    """Gemma 3 (text) from token ids to hidden states.

    Arguments are KerasHub's, in its order; `intermediate_dim` counts one branch of the
    feed-forward layer here. Five layers of six are windowed and rotate with base 10,000; every
    sixth sees all and rotates with base 1,000,000. Images are not read: `image_size` is kept for
    the sake of the argument order, and `vision_encoder` must be `None`.
    """

    block_class = Gemma3DecoderBlock

    def __init__(
        self,
        vocabulary_size: int,
        image_size: int | None,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        head_dim: int,
        query_head_dim_normalize: bool = True,
        use_query_key_norm: bool = True,
        use_post_ffw_norm: bool = False,
        use_post_attention_norm: bool = False,
        attention_logit_soft_cap: float | None = None,
        final_logit_soft_cap: float | None = None,
        use_sliding_window_attention: bool = False,
        sliding_window_size: int = 1024,
        local_rope_scaling_factor: float = 1.0,
        global_rope_scaling_factor: float = 1.0,
        vision_encoder: None = None,
        layer_norm_epsilon: float = 1e-6,
        use_bidirectional_attention: bool = False,
        dropout: float = 0,
        is_embedding_model: bool = False,
        pooling_intermediate_dim: int | None = None,
        embedding_dim: int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        for name, value in (
            ("vision_encoder", vision_encoder),
            ("use_bidirectional_attention", use_bidirectional_attention),
            ("is_embedding_model", is_embedding_model),
        ):
            if value:
                raise ValueError(
                    f"{name}={value!r} is not supported: this is Gemma 3's causal text model. "
                    f"Leave {name} out."
                )
        config = GemmaConfig(
            vocabulary_size,
            num_layers,
            num_query_heads,
            num_key_value_heads,
            hidden_dim,
            intermediate_dim,
            head_dim,
            query_head_dim_normalize=query_head_dim_normalize,
            use_query_key_norm=use_query_key_norm,
            use_post_ffw_norm=use_post_ffw_norm,
            use_post_attention_norm=use_post_attention_norm,
            attention_logit_soft_cap=attention_logit_soft_cap,
            final_logit_soft_cap=final_logit_soft_cap,
            use_sliding_window_attention=use_sliding_window_attention,
            sliding_window_size=sliding_window_size,
            windowed_layers_per_full_layer=5,
            rope_base=1_000_000.0,
            rope_scaling=global_rope_scaling_factor,
            windowed_rope_scaling=local_rope_scaling_factor,
            layer_norm_epsilon=layer_norm_epsilon,
            dropout=dropout,
        )
        self._image_size = image_size
        super().__init__(config, dtype, **kwargs)

    def _arguments(self):
        sizes = dataclasses.asdict(self.config)
        return {
            **{name: sizes[name] for name in _GEMMA_ARGUMENTS},
            "use_query_key_norm": sizes["use_query_key_norm"],
            "local_rope_scaling_factor": sizes["windowed_rope_scaling"],
            "global_rope_scaling_factor": sizes["rope_scaling"],
            "image_size": self._image_size,
            "vision_encoder": None,
            "use_bidirectional_attention": False,
        }


# The arguments that both backbones share with `GemmaConfig`, name by name.
_GEMMA_ARGUMENTS = (
    "vocabulary_size",
    "num_layers",
    "num_query_heads",
    "num_key_value_heads",
    "hidden_dim",
    "intermediate_dim",
    "head_dim",
    "layer_norm_epsilon",
    "dropout",
    "query_head_dim_normalize",
    "use_post_ffw_norm",
    "use_post_attention_norm",
    "attention_logit_soft_cap",
    "final_logit_soft_cap",
    "use_sliding_window_attention",
    "sliding_window_size",
)
