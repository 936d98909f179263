"""Optimizers that fit language models of any dtype; schedules are Keras's own."""

from keras_gemma.optimizers.adamw import AdamW

__all__ = ["AdamW"]
