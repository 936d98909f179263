"""The version, once: the build and `keras_gemma.__version__` read it here."""

__version__ = "0.1.0"
