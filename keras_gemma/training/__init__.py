"""Runs: saved and resumed, watched, repeated; recipes for them."""

from keras_gemma.training.checkpoint import Checkpoint
from keras_gemma.training.progress import Progress

__all__ = ["Checkpoint", "Progress"]
