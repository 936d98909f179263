"""Strings in, integers out: tokenizer, turns, packing, and what prepares them for the model."""

from keras_gemma.text.causal_lm_preprocessor import (
    Gemma3CausalLMPreprocessor,
    GemmaCausalLMPreprocessor,
)
from keras_gemma.text.packing import Packed, pack
from keras_gemma.text.text_classifier_preprocessor import (
    Gemma3TextClassifierPreprocessor,
    Gemma3TextEmbedderPreprocessor,
    GemmaTextClassifierPreprocessor,
    GemmaTextEmbedderPreprocessor,
)
from keras_gemma.text.token_stream import StreamDecoder
from keras_gemma.text.tokenizer import Gemma3Tokenizer, GemmaTokenizer
from keras_gemma.text.turns import Message, decode_turns, encode_turns

__all__ = [
    "Gemma3CausalLMPreprocessor",
    "Gemma3TextClassifierPreprocessor",
    "Gemma3TextEmbedderPreprocessor",
    "Gemma3Tokenizer",
    "GemmaCausalLMPreprocessor",
    "GemmaTextClassifierPreprocessor",
    "GemmaTextEmbedderPreprocessor",
    "GemmaTokenizer",
    "Message",
    "Packed",
    "StreamDecoder",
    "decode_turns",
    "encode_turns",
    "pack",
]
