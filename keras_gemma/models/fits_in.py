"""What training takes of memory, told before it starts.

B batch, T tokens, D model width, F feed-forward width, N query heads, K key heads, H head width.
"""

import math
import numbers
import re
from fractions import Fraction
from typing import Any, NamedTuple

import keras

from keras_gemma.models.cross_entropy import chunk_tokens
from keras_gemma.models.preset_model import PresetTask
from keras_gemma.presets.sizes import BYTES_PER_NUMBER

_UNITS = {"": 1, **{unit: 1000**n for n, unit in enumerate("kmgt", 1)}}
_UNITS |= {f"{unit}i": 1024**n for n, unit in enumerate("kmgt", 1)}
_PROBE = 512, 512  # a weight that an optimizer is tried on
_PARTS = "weights", "gradients", "optimizer", "activations", "head", "workspace"


class Fit(NamedTuple):
    """Bytes that a step of training takes, beside what the program itself does.

    Attributes:
        weights: of all variables, as they are stored.
        gradients: of those that are trained.
        optimizer: its state.
        activations: what the batch's tokens keep for the gradient, and what DoRA makes of a kernel meanwhile.
        head: a chunk of logits, or all of them for a loss or metrics of one's own; and if it is
            trained, the table's gradient in float32.
        workspace: what the gradient of one block takes while it is computed.
        memory: what there is.
        batch_size: rows that were asked about.
        row: what each row adds.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    workspace: int
    memory: int
    batch_size: int
    row: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, part) for part in _PARTS)

    @property
    def fits(self) -> bool:
        """Whether there is room for it."""
        return self.total <= self.memory

    @property
    def largest_batch(self) -> int:
        """Rows for which there is room; 0 if there is for none."""
        return max(0, (self.memory - self.total + self.batch_size * self.row) // self.row)

    def __str__(self):
        shown = (*_PARTS, "total", "memory")
        lines = [f"{name:12}{getattr(self, name) / 1e9:9.2f} GB" for name in shown]
        verdict = "fits" if self.fits else "does not fit"
        lines.append(
            f"A batch of {self.batch_size} {verdict}; the largest is {self.largest_batch}."
        )
        return "\n".join(lines)


def fits_in(
    model: Any, memory: str | int, *, batch_size: int = 1, sequence_length: int | None = None
) -> Fit:
    """What a step of `fit` would take, for a model as it is compiled: LoRA, `remat`, loss, optimizer.

    An estimate on the safe side: activations are those of the backend that keeps most. A model that is only asked
    about need not be loaded: `from_preset(name, load_weights=False)`.

    Args:
        model: a `GemmaCausalLM`, `GemmaTextClassifier` or `GemmaTextEmbedder`.
        memory: bytes, or `"16GB"`, `"24GiB"`.
        batch_size: rows of a step. An embedder's pair is two.
        sequence_length: tokens of a row; the preprocessor's if left out.

    Raises:
        TypeError: `model` is no such model.
        ValueError: `memory` is none, there is no length, or no optimizer.

    >>> from keras_gemma import GemmaCausalLM
    >>> fit = fits_in(GemmaCausalLM.from_preset("gemma_tiny_en"), "1GB", sequence_length=256)
    >>> fit.fits, fit.largest_batch > 8
    (True, True)
    """
    if not isinstance(model, PresetTask):
        raise TypeError(
            "fits_in takes a model with a loss and an optimizer, such as "
            f"GemmaCausalLM.from_preset(name, load_weights=False), not {_named(model)}."
        )
    if sequence_length is None:
        if model.preprocessor is None:
            raise ValueError("A model without preprocessor has no row length: sequence_length=256?")
        sequence_length = model.preprocessor.sequence_length
    length = _whole("sequence_length", sequence_length)
    batch_size = _whole("batch_size", batch_size)
    available, trained = _parsed(memory), model.trainable_variables
    state = _state_bytes(model.optimizer, trained)
    kept, more, block = _kept(model.backbone, length)
    if model.predicts_tokens:
        logits, chunk = _logits_bytes(model, length)
    else:  # hidden states and their gradient, as floats of four bytes
        logits, chunk = 8 * length * model.backbone.config.hidden_dim, 0
    embedding = model.backbone.token_embedding
    table = 4 * math.prod(embedding.embeddings.shape) if embedding.trainable_variables else 0
    return Fit(
        weights=_bytes(model.variables),
        gradients=_bytes(trained),
        optimizer=state,
        activations=batch_size * kept + more,
        head=batch_size * logits + chunk + table,
        workspace=batch_size * block,
        memory=available,
        batch_size=batch_size,
        row=kept + logits + block,
    )


def _logits_bytes(model, length):
    """Of each row, and of all rows together."""
    config = model.backbone.config
    size = BYTES_PER_NUMBER[model.backbone.compute_dtype]
    if model._trains_on_hidden_states:
        chunk = chunk_tokens(config.hidden_dim) * config.vocabulary_size
        return 0, chunk * (4 + (size if size < 4 else 0))
    # As PyTorch does: four times in four bytes, and a little; JAX takes three quarters of it.
    each = 17 + (2 * size if size < 4 else 0)
    if config.final_logit_soft_cap is not None:
        each += 2 * size
    return length * config.vocabulary_size * each, 0


def _kept(backbone, length):
    """Bytes of activations of a row; of what is there beside them whatever the batch; and of a block's gradients, of a row."""
    config, size = backbone.config, BYTES_PER_NUMBER[backbone.compute_dtype]
    blocks = backbone.transformer_layers
    kept = [length * _kept_by_token(block, config, length, size) for block in blocks]
    more, block = max(4 * _dora_numbers(block) for block in blocks), max(kept)
    if any(block.remat for block in blocks):
        again = 2 * size * config.hidden_dim * length
        return len(blocks) * again + block, more, block
    if not backbone.token_embedding.trainable_variables:
        # No gradient goes below the first block that is trained.
        trained = [any(v.trainable for v in block.variables) for block in blocks]
        kept = kept[trained.index(True) :] if any(trained) else [block]
    return sum(kept), more, block


def _kept_by_token(block, config, length, size):
    """Bytes of one token, as counted on PyTorch; of the feed-forward part as on JAX, which keeps more."""
    low, pairs = size < 4, config.num_query_heads * length
    width, wide = config.hidden_dim, config.intermediate_dim
    queries = config.num_query_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    kept = 4 * wide + 4 * width + 2 * queries + 4 * keys
    block_bytes = size * kept + low * 8 * width  # norms are float32
    block_bytes += sum(_kept_for_kernels(*inputs, size) for inputs in _inputs(block, config))
    # Five eighths of all pairs are looked at: each of four parts of a text looks back.
    pair = 4 + low * size + (4 if config.attention_logit_soft_cap is not None else 0)
    if config.dropout:
        block_bytes += 2 * size * width
        pair += 2 * size
    return block_bytes + pairs * pair * 5 // 8


def _inputs(block, config):
    """`(numbers of a token, the layers that read them)`."""
    attention = block.attention
    heads = config.num_query_heads * config.head_dim
    yield config.hidden_dim, (attention.query_dense, attention.key_dense, attention.value_dense)
    yield heads, (attention.output_dense,)
    yield config.hidden_dim, (block.gating_ffw, block.gating_ffw_2)
    yield config.intermediate_dim, (block.ffw_linear,)


def _kept_for_kernels(read, layers, size):
    """Bytes of a token that are kept for the gradients of kernels and adapters."""
    branches = [layer.branches[layer.active] for layer in layers if layer.active is not None]
    is_read = any(layer._kernel.trainable for layer in layers)
    is_read = is_read or any(not branch.options.dropout for branch in branches)
    kept = size * read if is_read else 0
    for branch in branches:
        narrow = math.prod(branch.a.shape) // read
        kept += 2 * size * narrow
        if branch.options.dropout:  # what is left, and a mask, which JAX has in four bytes
            kept += (size + 4) * read
        if branch.magnitude is not None:
            kept += size * math.prod(branch.magnitude.shape)
    return kept


def _dora_numbers(block):
    """Of the floats made of a kernel to measure its outputs: four times as many as it has."""
    layers = (layer for layer in block._flatten_layers() if getattr(layer, "active", None))
    adapted = [layer for layer in layers if layer.branches[layer.active].magnitude is not None]
    return 4 * max((math.prod(layer.kernel_shape) for layer in adapted), default=0)


def _bytes(variables):
    return sum(math.prod(v.shape) * _number_bytes(v.dtype) for v in variables)


def _number_bytes(dtype):
    return 1 if dtype in ("int8", "uint8", "bool") else int(re.sub(r"\D", "", dtype)) // 8


def _state_bytes(optimizer, trained):
    """Of an optimizer that has begun, its variables; of another, what a copy of it makes for a probe."""
    if optimizer is None:
        raise ValueError(
            "The model is compiled without an optimizer, and fit needs one: compile()."
        )
    if optimizer.built:
        return _bytes(optimizer.variables)
    made = 0
    for dtype in {variable.dtype for variable in trained}:
        probe = keras.Variable(keras.ops.zeros(_PROBE, dtype))
        copy = _copied(optimizer)
        copy.build([probe])
        count = sum(math.prod(v.shape) for v in trained if v.dtype == dtype)
        made += _bytes(copy.variables) * count // math.prod(_PROBE)
    return made


def _copied(optimizer):
    try:
        return type(optimizer).from_config(optimizer.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{type(optimizer).__name__} can't be copied, to see what it keeps: {error} Give it, and its "
            "schedule, a get_config(); or build it first: optimizer.build(model.trainable_variables)."
        ) from error


def _whole(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number of 1 or more, not {value!r}.")
    return int(value)


def _named(value):
    return repr(value) if isinstance(value, str) else f"a {type(value).__name__}"


def _parsed(memory):
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt]i?|)b?\s*", str(memory).lower(), re.ASCII)
    count = int(Fraction(found[1]) * _UNITS[found[2]]) if found else 0
    if not count or isinstance(memory, bool):
        raise ValueError(f"memory must be bytes, or a text like '16GB' or '24GiB', not {memory!r}.")
    return count
