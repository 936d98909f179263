"""GGUF files, the format of llama.cpp: weights, configuration and tokenizer in one file."""

from pathlib import Path

from keras_gemma.conversion.checkpoint import Checkpoint, Source
from keras_gemma.conversion.gguf.file import GGUFFile
from keras_gemma.conversion.gguf.metadata import backbone_arguments, model_metadata
from keras_gemma.conversion.gguf.vocabulary import vocabulary_proto
from keras_gemma.conversion.gguf.writer import TYPE_NAMES, type_for, write_gguf
from keras_gemma.conversion.huggingface.chat_template import template_of
from keras_gemma.conversion.weight_map import Rule
from keras_gemma.presets.errors import BadPresetError

_TABLE = "token_embd.weight"
_KERNELS = (
    ("attention/query/kernel", "attn_q", "(n h) d -> n d h"),
    ("attention/key/kernel", "attn_k", "(n h) d -> n d h"),
    ("attention/value/kernel", "attn_v", "(n h) d -> n d h"),
    ("attention/attention_output/kernel", "attn_output", "d (n h) -> n h d"),
    ("ffw_gating/kernel", "ffn_gate", "f d -> d f"),
    ("ffw_gating_2/kernel", "ffn_up", "f d -> d f"),
    ("ffw_linear/kernel", "ffn_down", "d f -> f d"),
)
_NORMS = (
    ("attention/query_norm/scale", "attn_q_norm"),
    ("attention/key_norm/scale", "attn_k_norm"),
    ("pre_attention_norm/scale", "attn_norm"),
    ("post_attention_norm/scale", "post_attention_norm"),
    ("pre_ffw_norm/scale", "ffn_norm"),
    ("post_ffw_norm/scale", "post_ffw_norm"),
)
# Norms are stored as what is multiplied: 1 + scale.
RULES = (
    Rule("token_embedding/embeddings", _TABLE),
    Rule("final_normalization/scale", "output_norm.weight", offset=1),
    *(
        Rule(f"decoder_block_{{i}}/{ours}", f"blk.{{i}}.{theirs}.weight", pattern)
        for ours, theirs, pattern in _KERNELS
    ),
    *(
        Rule(f"decoder_block_{{i}}/{ours}", f"blk.{{i}}.{theirs}.weight", offset=1)
        for ours, theirs in _NORMS
    ),
)
_FLOATS = ("float32", "bfloat16", "float16")


def recognizes(place: Path) -> bool:
    """Whether it is a GGUF file, or a folder that holds just one."""
    return _file(place) is not None


def _file(place):
    if place.is_dir():
        found = list(place.glob("*.gguf"))
        return found[0] if len(found) == 1 else None
    return place if place.suffix == ".gguf" else None


def open_checkpoint(place: Path, load_weights: bool = True) -> Checkpoint:
    """The model in a file."""
    file = GGUFFile(_file(place))
    headers = file.headers()
    if _TABLE not in headers:
        raise BadPresetError(f"{file.path} has no tensor {_TABLE}.")
    backbone, config = backbone_arguments(
        file.metadata, str(file.path), vocabulary_size=headers[_TABLE].shape[0]
    )
    stored = headers[_TABLE].dtype
    config["dtype"] = stored if stored in _FLOATS else "float32"
    return Checkpoint(backbone, config, file if load_weights else None, RULES, ignored)


def ignored(name: str) -> bool:
    """Whether a file may hold it beside a model: the table once more as head, factors of RoPE."""
    return name in ("output.weight", "rope_freqs.weight")


def has_vocabulary(place: Path) -> bool:
    """Whether the file holds a tokenizer, too."""
    return "tokenizer.ggml.tokens" in GGUFFile(_file(place)).metadata


def chats(place: Path) -> bool | None:
    """Whether the file says how turns are written; None where it has no tokenizer."""
    keys = GGUFFile(_file(place)).metadata
    return "tokenizer.chat_template" in keys if "tokenizer.ggml.tokens" in keys else None


def vocabulary(place: Path) -> bytes:
    """The tokenizer's SentencePiece model."""
    file = GGUFFile(_file(place))
    return vocabulary_proto(file.metadata, str(file.path))


def save(path: Path, source: Source) -> None:
    """Write a file; it appears whole or not at all.

    Raises:
        ValueError: the numbers are to be of a type that is not written, or the model is none that
            GGUF has fields for.
    """
    if source.dtype not in TYPE_NAMES:
        raise ValueError(f"dtype={source.dtype!r} is no type of GGUF: {', '.join(TYPE_NAMES)}.")
    config = {name: value for name, value in source.config.items() if name != "dtype"}
    metadata = model_metadata(
        source.backbone,
        config,
        source.vocabulary,
        TYPE_NAMES[source.dtype],
        path.stem,
        source.context_length,
        template_of(source.vocabulary, source.chats),
    )
    tensors = (
        tensor._replace(dtype=type_for(tensor.shape, source.dtype))
        for tensor in source.writables(RULES, rounded=False)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(path, metadata, tensors)
