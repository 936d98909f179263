"""Tensors in, tensors out: the parts of a decoder block."""

from keras_gemma.layers.attend import attend
from keras_gemma.layers.attention import GemmaAttention
from keras_gemma.layers.decoder_block import Gemma3DecoderBlock, GemmaDecoderBlock
from keras_gemma.layers.fan_in import FanIn, left_blank
from keras_gemma.layers.positions import Positions, TokenPositions, visible
from keras_gemma.layers.reversible_embedding import ReversibleEmbedding
from keras_gemma.layers.rms_normalization import RMSNormalization
from keras_gemma.layers.rotary import rotate

__all__ = [
    "FanIn",
    "Gemma3DecoderBlock",
    "GemmaAttention",
    "GemmaDecoderBlock",
    "Positions",
    "RMSNormalization",
    "ReversibleEmbedding",
    "TokenPositions",
    "attend",
    "left_blank",
    "rotate",
    "visible",
]
