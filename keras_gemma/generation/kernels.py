"""keras-gemma-kernels, CPU kernels written by hand: whether they are installed and run here.

They are a package of their own, found where it is installed. The environment variable
KERAS_GEMMA_KERNELS=0 declines them.
"""

import os
from typing import Any, NamedTuple

import keras

from keras_gemma.generation.compiled import traits

try:
    import keras_gemma_kernels as kg
except ImportError:
    kg: Any = None

VARIABLE = "KERAS_GEMMA_KERNELS"
DTYPES = ("float32", "bfloat16")  # of the weights that they read
_SERIES = "0.2."  # of the package's versions: what they are asked for here


class Found(NamedTuple):
    """Whether the kernels are used, and what to say of them."""

    used: bool
    told: str


def found() -> Found:
    """What generation does on the running backend and its device.

    >>> found().told != ""
    True
    """
    if kg is None:
        return Found(False, "keras-gemma-kernels is not installed")
    name = f"keras-gemma-kernels {kg.__version__}"
    if not kg.__version__.startswith(_SERIES):
        return Found(False, f"{name} is not of the series {_SERIES}x")
    if os.environ.get(VARIABLE) == "0":  # before the library is loaded: that may be why
        return Found(False, f"{name}, declined by {VARIABLE}=0")
    backend = keras.config.backend()
    if not traits().takes_kernels:
        return Found(False, f"{name}, not for {backend} on this device")
    available = kg.available(backend)
    if available.isa is None:
        return Found(False, f"{name}: {available.reason}")
    return Found(True, f"{name}, {available.isa}")
