"""What users hold: language models, their backbones, and what belongs to them."""

from keras_gemma.models.backbone import Gemma3Backbone, GemmaBackbone
from keras_gemma.models.causal_lm import Gemma3CausalLM, GemmaCausalLM
from keras_gemma.models.chat import Chat
from keras_gemma.models.continuous_batcher import ContinuousBatcher
from keras_gemma.models.export_checkpoint import export_checkpoint
from keras_gemma.models.fits_in import fits_in
from keras_gemma.models.in_batch_negatives import InBatchNegatives
from keras_gemma.models.text_classifier import Gemma3TextClassifier, GemmaTextClassifier
from keras_gemma.models.text_embedder import Gemma3TextEmbedder, GemmaTextEmbedder
from keras_gemma.text import (
    Gemma3CausalLMPreprocessor,
    Gemma3TextClassifierPreprocessor,
    Gemma3TextEmbedderPreprocessor,
    Gemma3Tokenizer,
    GemmaCausalLMPreprocessor,
    GemmaTextClassifierPreprocessor,
    GemmaTextEmbedderPreprocessor,
    GemmaTokenizer,
)

__all__ = [
    "Chat",
    "ContinuousBatcher",
    "Gemma3Backbone",
    "Gemma3CausalLM",
    "Gemma3CausalLMPreprocessor",
    "Gemma3TextClassifier",
    "Gemma3TextClassifierPreprocessor",
    "Gemma3TextEmbedder",
    "Gemma3TextEmbedderPreprocessor",
    "Gemma3Tokenizer",
    "GemmaBackbone",
    "GemmaCausalLM",
    "GemmaCausalLMPreprocessor",
    "GemmaTextClassifier",
    "GemmaTextClassifierPreprocessor",
    "GemmaTextEmbedder",
    "GemmaTextEmbedderPreprocessor",
    "GemmaTokenizer",
    "InBatchNegatives",
    "export_checkpoint",
    "fits_in",
]
