"""The layers of Gemma and the one way through them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_gemma.config import GemmaConfig
from keras_gemma.layers import GemmaDecoderBlock, Positions, ReversibleEmbedding, RMSNormalization


def _unchanged(x_BTD, layer):
    return x_BTD


@dataclasses.dataclass(frozen=True)
class DecoderStack:
    """A plain record, so that Keras sees the graph of layers and nothing else."""

    config: GemmaConfig
    token_embedding: ReversibleEmbedding
    blocks: tuple
    final_norm: RMSNormalization

    @classmethod
    def create(cls, config: GemmaConfig, dtype, block_class=GemmaDecoderBlock) -> "DecoderStack":
        """New layers, named as in published weight files."""
        return cls(
            config,
            ReversibleEmbedding(config, dtype=dtype, name="token_embedding"),
            tuple(
                block_class(config, layer, dtype=dtype, name=f"decoder_block_{layer}")
                for layer in range(config.num_layers)
            ),
            RMSNormalization(config.layer_norm_epsilon, dtype=dtype, name="final_normalization"),
        )

    def hidden_states(
        self,
        token_ids_BT,
        positions: Positions,
        caches: tuple = (),
        training: bool = False,
        intercept: Callable[[Any, int], Any] = _unchanged,
    ):
        """The one forward pass: training, scoring, prefill and decoding.

        `intercept(x_BTD, layer)` sees, and may replace, the embeddings (layer -1) and the output
        of each block. Returns `(hidden_BTD, caches)`.
        """
        x_BTD, kept = intercept(self.token_embedding(token_ids_BT), -1), []
        for layer, block in enumerate(self.blocks):
            cache = caches[layer] if caches else ()
            x_BTD, cache = block(x_BTD, positions, cache, training=training)
            x_BTD = intercept(x_BTD, layer)
            kept.append(cache)
        return self.final_norm(x_BTD), tuple(kept) if caches else ()

    def logits(self, hidden_BTD):
        """Hidden states to logits over the vocabulary, BTV."""
        return self.token_embedding(hidden_BTD, reverse=True)
