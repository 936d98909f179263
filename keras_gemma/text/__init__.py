"""Strings in, integers out: tokenizer, turns, packing, and what prepares them for the model."""

from keras_gemma.text.packing import Packed, pack
from keras_gemma.text.tokenizer import Gemma3Tokenizer, GemmaTokenizer
from keras_gemma.text.turns import Message, decode_turns, encode_turns

__all__ = [
    "Gemma3Tokenizer",
    "GemmaTokenizer",
    "Message",
    "Packed",
    "decode_turns",
    "encode_turns",
    "pack",
]
