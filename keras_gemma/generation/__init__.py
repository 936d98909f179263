"""The engine that turns a forward pass into text."""

from keras_gemma.generation.engine import Engine, GenerationState, bucket
from keras_gemma.generation.kv_cache import KVCache, empty_caches
from keras_gemma.generation.stopping import StopStrings
from keras_gemma.generation.streaming import end_ids, text_pieces
from keras_gemma.generation.weights import weights_for

__all__ = [
    "Engine",
    "GenerationState",
    "KVCache",
    "StopStrings",
    "bucket",
    "empty_caches",
    "end_ids",
    "text_pieces",
    "weights_for",
]
