"""What users hold: backbones, language models and what belongs to them."""

from keras_gemma.models.backbone import Gemma3Backbone, GemmaBackbone
from keras_gemma.models.causal_lm import Gemma3CausalLM, GemmaCausalLM

__all__ = ["Gemma3Backbone", "Gemma3CausalLM", "GemmaBackbone", "GemmaCausalLM"]
