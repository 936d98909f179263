"""Optimizers and schedules that fit language models of any dtype."""

from keras_gemma.optimizers.adamw import AdamW
from keras_gemma.optimizers.schedules import WarmupCosine

__all__ = ["AdamW", "WarmupCosine"]
