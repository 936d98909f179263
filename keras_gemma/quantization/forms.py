"""How the numbers of a layer are quantized: what a mode and a configuration of Keras come to."""

from typing import Any, NamedTuple

import keras

BLOCK = 32  # weights that share a scale in int4: what the CPU kernels read


class Form(NamedTuple):
    """`int8` with a scale for each output, or `int4` with one for each block of inputs.

    `block` is `None` where a scale is for a whole output.
    """

    mode: str
    block: int | None = None

    @property
    def policy(self) -> str:
        """As the names of Keras's dtype policies begin."""
        return self.mode if self.mode == "int8" else f"int4/{self.block or -1}"


def form_of(mode: str | None = None, config: Any = None) -> Form:
    """What `quantize(mode, config)` is to make: weights alone are rounded, never activations.

    >>> form_of("int8"), form_of("int4")
    (Form(mode='int8', block=None), Form(mode='int4', block=32))
    >>> form_of(config=keras.quantizers.Int4QuantizationConfig(block_size=128)).block
    128

    Raises:
        ValueError: another mode, or quantizers of a user's own, or of activations.
        TypeError: the configuration is none of Keras's.
    """
    if isinstance(config, str):  # `quantize(config="int8")`, as Keras takes it, too
        mode, config = config, None
    if config is None:
        if mode not in ("int8", "int4"):
            raise ValueError(f"quantize takes the mode 'int8' or 'int4', not {mode!r}.")
        return Form(mode, BLOCK if mode == "int4" else None)
    if not isinstance(config, keras.quantizers.QuantizationConfig):
        raise TypeError(f"config must be a keras.quantizers.QuantizationConfig, not {config!r}.")
    if mode not in (None, config.mode):
        raise ValueError(f"mode={mode!r} and a config of mode {config.mode!r} contradict.")
    if config.mode not in ("int8", "int4"):
        raise ValueError(f"quantize takes the mode 'int8' or 'int4', not {config.mode!r}.")
    if config.weight_quantizer is not None or config.activation_quantizer is not None:
        raise ValueError(
            "Weights alone are quantized, in a way that cannot be chosen: pass "
            f"{type(config).__name__}(activation_quantizer=None)."
        )
    block = getattr(config, "block_size", None)
    return Form(config.mode, None if block == -1 else block)
