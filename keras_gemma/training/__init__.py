"""Runs of `fit`: saved and resumed, watched, repeated; recipes for them.

Everything is imported when it is first used: what only reads a run's folder needs no backend.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_gemma.training.checkpoint import Checkpoint
    from keras_gemma.training.progress import Progress
    from keras_gemma.training.recital import Recital, canary
    from keras_gemma.training.samples import Samples

_HOMES = {
    "Checkpoint": "checkpoint",
    "Progress": "progress",
    "Recital": "recital",
    "Samples": "samples",
    "canary": "recital",
}

__all__ = ["Checkpoint", "Progress", "Recital", "Samples", "canary"]


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"keras_gemma.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'keras_gemma.training' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
