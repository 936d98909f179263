"""The engine that turns a forward pass into text."""

from keras_gemma.generation.beam_search import Beam, BeamSearch
from keras_gemma.generation.contrastive_search import ContrastiveSearch
from keras_gemma.generation.drafting import DraftModel, PromptLookup
from keras_gemma.generation.engine import Engine
from keras_gemma.generation.kv_cache import KINDS as CACHES
from keras_gemma.generation.kv_cache import KVCache, empty_caches
from keras_gemma.generation.run import Run, TokenLogProb
from keras_gemma.generation.slot_batch import SlotBatch, Ticket
from keras_gemma.generation.state import GenerationState, Request, bucket
from keras_gemma.generation.stopping import StopStrings
from keras_gemma.generation.streaming import end_ids, text_pieces
from keras_gemma.generation.weights import weights_for

__all__ = [
    "CACHES",
    "Beam",
    "BeamSearch",
    "ContrastiveSearch",
    "DraftModel",
    "Engine",
    "GenerationState",
    "KVCache",
    "PromptLookup",
    "Request",
    "Run",
    "SlotBatch",
    "StopStrings",
    "Ticket",
    "TokenLogProb",
    "bucket",
    "empty_caches",
    "end_ids",
    "text_pieces",
    "weights_for",
]
