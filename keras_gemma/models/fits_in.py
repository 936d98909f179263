"""What training takes of memory, told before it starts.

B batch, T tokens, D model width, F feed-forward width, N query heads, K key heads, H head width.
"""

import math
import re
from typing import Any, NamedTuple

import keras

from keras_gemma.config import GemmaConfig
from keras_gemma.models.cross_entropy import chunk_tokens
from keras_gemma.presets.sizes import BYTES_PER_NUMBER

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_PROBE = 512, 512  # a weight that an optimizer is tried on


class Fit(NamedTuple):
    """Bytes that a step of training takes, beside what the program itself does.

    Attributes:
        weights: of all variables, as they are stored.
        gradients: of those that are trained.
        optimizer: its state.
        activations: what the batch's tokens keep for the gradient.
        head: a chunk of logits and, if it is trained, the table's gradient in float32.
        memory: what there is.
        batch_size: rows that were asked about.
        row: the activations of one row.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    memory: int
    batch_size: int
    row: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.head

    @property
    def fits(self) -> bool:
        """Whether there is room for it."""
        return self.total <= self.memory

    @property
    def largest_batch(self) -> int:
        """Rows for which there is room; 0 if there is for none."""
        return max(0, (self.memory - self.total + self.activations) // self.row)

    def __str__(self):
        parts = ("weights", "gradients", "optimizer", "activations", "head", "total", "memory")
        lines = [f"{name:12}{getattr(self, name) / 1e9:9.2f} GB" for name in parts]
        verdict = "fits" if self.fits else "does not fit"
        lines.append(
            f"A batch of {self.batch_size} {verdict}; the largest is {self.largest_batch}."
        )
        return "\n".join(lines)


def fits_in(
    model: Any, memory: str | int, *, batch_size: int = 1, sequence_length: int | None = None
) -> Fit:
    """What a step of `fit` would take, for a model as it is compiled: LoRA, `remat`, optimizer.

    An estimate on the safe side: activations are those of the backend that keeps most. A model that is only asked
    about need not be loaded: `from_preset(name, load_weights=False)`.

    Args:
        model: a `GemmaCausalLM`.
        memory: bytes, or `"16GB"`, `"24GiB"`.
        batch_size: rows of a step.
        sequence_length: tokens of a row; the preprocessor's if left out.

    Raises:
        ValueError: `memory` is none, or there is no length.

    >>> from keras_gemma import GemmaCausalLM
    >>> fit = fits_in(GemmaCausalLM.from_preset("gemma_tiny_en"), "1GB", sequence_length=256)
    >>> fit.fits, fit.largest_batch > 8
    (True, True)
    """
    if sequence_length is None:
        if model.preprocessor is None:
            raise ValueError("A model without preprocessor has no row length: sequence_length=256?")
        sequence_length = model.preprocessor.sequence_length
    config, embedding = model.backbone.config, model.backbone.token_embedding
    trained = model.trainable_variables
    is_frozen = not model.backbone.transformer_layers[0].attention.output_dense._kernel.trainable
    kept = sequence_length * _kept_by_token(
        config, sequence_length, model.backbone.compute_dtype, is_frozen, model.remat
    )
    size = BYTES_PER_NUMBER[embedding.compute_dtype]
    logits = (
        chunk_tokens(config.hidden_dim) * config.vocabulary_size * (4 + (size if size < 4 else 0))
    )
    table = 4 * config.vocabulary_size * config.hidden_dim if embedding.trainable_variables else 0
    return Fit(
        weights=_bytes(model.variables),
        gradients=_bytes(trained),
        optimizer=_state_bytes(model.optimizer, trained),
        activations=batch_size * kept,
        head=logits + table,
        memory=_parsed(memory),
        batch_size=batch_size,
        row=kept,
    )


def _kept_by_token(config: GemmaConfig, length, dtype, is_frozen, remat):
    """Bytes of activations of one token, as counted on PyTorch; of the feed-forward part as on JAX, which keeps more."""
    size, low = BYTES_PER_NUMBER[dtype], BYTES_PER_NUMBER[dtype] < 4
    width, wide = config.hidden_dim, config.intermediate_dim
    queries = config.num_query_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    numbers = 5 * wide + 7 * width + 3 * queries + 4 * keys
    if is_frozen:  # then nothing is multiplied by what a kernel read
        numbers -= wide + 3 * width + queries
    block = size * numbers + low * 8 * width  # norms are float32
    # Half of all pairs see each other.
    block += config.num_query_heads * length * (4 + low * size) // 2
    if remat:
        return config.num_layers * 2 * size * width + block
    return config.num_layers * block


def _bytes(variables):
    return sum(math.prod(v.shape) * _number_bytes(v.dtype) for v in variables)


def _number_bytes(dtype):
    return 1 if dtype in ("int8", "uint8", "bool") else int(re.sub(r"\D", "", dtype)) // 8


def _state_bytes(optimizer, trained):
    """Of an optimizer that has begun, its variables; of another, what a copy of it makes for a probe."""
    if optimizer.built:
        return _bytes(optimizer.variables)
    made = 0
    for dtype in {variable.dtype for variable in trained}:
        probe = keras.Variable(keras.ops.zeros(_PROBE, dtype))
        copy = type(optimizer).from_config(optimizer.get_config())
        copy.build([probe])
        numbers = sum(math.prod(v.shape) for v in trained if v.dtype == dtype)
        made += _bytes(copy.variables) * numbers // math.prod(_PROBE)
    return made


def _parsed(memory):
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    found = re.fullmatch(r"\s*([\d.]+)\s*(k|m|g|ki|mi|gi|)b?\s*", str(memory).lower())
    if not found or not float(found[1]):
        raise ValueError(f"memory must be bytes, or a text like '16GB' or '24GiB', not {memory!r}.")
    return int(float(found[1]) * _UNITS[found[2]])
