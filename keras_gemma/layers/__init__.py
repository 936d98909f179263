"""Tensors in, tensors out: the parts of a decoder block."""

from keras_gemma.layers.attend import attend, soft_capped
from keras_gemma.layers.attention import AttentionFormula, GemmaAttention
from keras_gemma.layers.decoder_block import BlockFormula, Gemma3DecoderBlock, GemmaDecoderBlock
from keras_gemma.layers.dense import Dense
from keras_gemma.layers.fan_in import FanIn, left_blank
from keras_gemma.layers.pooling import TokenPooling, UnitLength
from keras_gemma.layers.positions import Positions, TokenPositions, visible
from keras_gemma.layers.reversible_embedding import ReversibleEmbedding, scaled
from keras_gemma.layers.rms_normalization import RMSNormalization, normalize
from keras_gemma.layers.rotary import rotate

__all__ = [
    "AttentionFormula",
    "BlockFormula",
    "Dense",
    "FanIn",
    "Gemma3DecoderBlock",
    "GemmaAttention",
    "GemmaDecoderBlock",
    "Positions",
    "RMSNormalization",
    "ReversibleEmbedding",
    "TokenPooling",
    "TokenPositions",
    "UnitLength",
    "attend",
    "left_blank",
    "normalize",
    "rotate",
    "scaled",
    "soft_capped",
    "visible",
]
