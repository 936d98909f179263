"""Folders of Transformers: `config.json`, safetensors in one file or many, and a tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece

import keras_gemma.conversion.gemma_pytorch.checkpoint as gemma_pytorch
from keras_gemma.conversion.checkpoint import Checkpoint, Source
from keras_gemma.conversion.huggingface.chat_template import template_of
from keras_gemma.conversion.huggingface.config import backbone_arguments
from keras_gemma.conversion.huggingface.config_writer import huggingface_config
from keras_gemma.conversion.huggingface.safetensors_file import (
    INDEX,
    SafetensorsTensors,
    open_folder,
)
from keras_gemma.conversion.huggingface.safetensors_writer import LARGEST_FILE, write_safetensors
from keras_gemma.conversion.huggingface.tokenizer import (
    encoded,
    stop_ids,
    token_ids,
    tokenizer_files,
)
from keras_gemma.conversion.huggingface.tokenizer_json import proto_of_json
from keras_gemma.conversion.sentencepiece_proto import parse_model
from keras_gemma.conversion.weight_map import Rule
from keras_gemma.presets import bundle
from keras_gemma.presets.errors import BadPresetError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
VOCABULARY, VOCABULARY_JSON = "tokenizer.model", "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# What stands before the names of the text model's tensors: saved with its head or without it, and
# within a Gemma 3 that reads images, by older and newer releases.
PREFIXES = ("model.", "", "language_model.model.", "model.language_model.")
_HEADS = ("lm_head.weight", "language_model.lm_head.weight")
# Parts of a Gemma 3 that read images: passed over, as what is read is the text model.
_IMAGES = ("vision_tower.", "multi_modal_projector.")
_IMAGE_TOKEN = "<image_soft_token>"  # stands behind the pieces of its vocabulary
_FLOATS = ("float32", "bfloat16", "float16", "float64")
# What an export writes, and a later one may replace.
OWNED = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


def rules(has_post_norms: bool, prefix: str = "model.") -> tuple[Rule, ...]:
    """The table of a Gemma; of Gemma 2 and 3 with norms behind the parts of a block, too."""
    norms = {"pre_attention_norm": "input_layernorm", "pre_ffw_norm": "post_attention_layernorm"}
    if has_post_norms:
        norms = {
            "pre_attention_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
            "pre_ffw_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
    norms |= {f"attention/{name}_norm": f"self_attn.{name[0]}_norm" for name in ("query", "key")}
    kernels = {
        "attention/query": ("self_attn.q_proj", "(n h) d -> n d h"),
        "attention/key": ("self_attn.k_proj", "(n h) d -> n d h"),
        "attention/value": ("self_attn.v_proj", "(n h) d -> n d h"),
        "attention/attention_output": ("self_attn.o_proj", "d (n h) -> n h d"),
        "ffw_gating": ("mlp.gate_proj", "f d -> d f"),
        "ffw_gating_2": ("mlp.up_proj", "f d -> d f"),
        "ffw_linear": ("mlp.down_proj", "d f -> f d"),
    }
    ours, theirs = "decoder_block_{i}/", f"{prefix}layers.{{i}}."
    return (
        Rule("token_embedding/embeddings", f"{prefix}embed_tokens.weight"),
        Rule("final_normalization/scale", f"{prefix}norm.weight"),
        *(Rule(f"{ours}{a}/scale", f"{theirs}{b}.weight") for a, b in norms.items()),
        *(Rule(f"{ours}{a}/kernel", f"{theirs}{b}.weight", p) for a, (b, p) in kernels.items()),
    )


def recognizes(place: Path) -> bool:
    """Whether a model of Transformers lies there: `config.json` says of which type it is."""
    if bundle.has(place, WEIGHTS) or bundle.has(place, f"{WEIGHTS}{INDEX}"):
        return True
    # DeepMind's files may have a configuration of this kind beside them.
    if gemma_pytorch.recognizes(place):
        return False
    return bundle.has(place, CONFIG) and "model_type" in bundle.read_json(place, CONFIG)


def open_checkpoint(folder: Path, load_weights: bool = True) -> Checkpoint:
    """The model in a folder."""
    config = bundle.read_json(folder, CONFIG)
    backbone, arguments = backbone_arguments(config, str(folder / CONFIG))
    has_post_norms = arguments.get("use_post_ffw_norm", False)
    ignored = _ignored(config["model_type"] == "gemma3")
    if not load_weights:
        return Checkpoint(backbone, arguments, None, rules(has_post_norms), ignored)
    tensors = _tensors(folder)
    headers = tensors.headers()
    prefix = next((p for p in PREFIXES if f"{p}embed_tokens.weight" in headers), PREFIXES[0])
    table = headers.get(f"{prefix}embed_tokens.weight")
    for name, stored in headers.items():
        if name in _HEADS and table is not None and stored.shape != table.shape:
            raise BadPresetError(
                f"{tensors.path}: {name} has shape {stored.shape}, and the table it is tied to has "
                f"{table.shape}."
            )
        if stored.dtype not in _FLOATS and not ignored(name):
            raise BadPresetError(
                f"{tensors.path}: {name} holds {stored.dtype}: quantized weights are not read."
            )
    if table is not None and table.dtype in _FLOATS[:3]:  # the file itself knows best
        arguments["dtype"] = table.dtype
    return Checkpoint(backbone, arguments, tensors, rules(has_post_norms, prefix), ignored)


def _ignored(reads_images: bool) -> Callable[[str], bool]:
    """Whether a tensor may be there and the text model does without it.

    The head is tied to the embedding table; the speeds of rotary positions follow from the sizes.
    """
    skipped = (*_IMAGES, *(f"model.{name}" for name in _IMAGES)) if reads_images else ()
    return lambda name: (
        name in _HEADS or name.endswith("rotary_emb.inv_freq") or name.startswith(skipped)
    )


def _tensors(folder: Path) -> SafetensorsTensors:
    try:
        return open_folder(folder)
    except BadPresetError:
        there = any(bundle.has(folder, name) for name in (WEIGHTS, f"{WEIGHTS}{INDEX}"))
        if there or not any(folder.glob("pytorch_model*.bin")):
            raise
        raise BadPresetError(
            f"{folder} has its weights in pytorch_model.bin, which is not read. Write them as "
            "safetensors: transformers.AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(new_folder)."
        ) from None


def has_vocabulary(folder: Path) -> bool:
    """Whether there is a tokenizer beside the weights."""
    return any(bundle.has(folder, name) for name in (VOCABULARY, VOCABULARY_JSON))


def vocabulary(folder: Path) -> bytes:
    """The tokenizer's SentencePiece model, from `tokenizer.model` or made of `tokenizer.json`."""
    if not bundle.has(folder, VOCABULARY) and bundle.has(folder, VOCABULARY_JSON):
        return proto_of_json(folder / VOCABULARY_JSON)
    with bundle.reading(folder / VOCABULARY):
        proto = (folder / VOCABULARY).read_bytes()
        changed = _changed_token(folder, proto)
    if changed is None:
        return proto
    if bundle.has(folder, VOCABULARY_JSON):
        return proto_of_json(folder / VOCABULARY_JSON)
    raise BadPresetError(
        f"{folder / TOKENIZER_CONFIG} has a token {changed!r:.60} that {VOCABULARY} has not, and "
        f"there is no {VOCABULARY_JSON}."
    )


def chats(folder: Path) -> bool | None:
    """Whether the folder says how turns are written; None where it has no tokenizer."""
    if bundle.has(folder, "chat_template.jinja"):
        return True
    if not bundle.has(folder, TOKENIZER_CONFIG):
        return None
    return bool(bundle.read_json(folder, TOKENIZER_CONFIG).get("chat_template"))


def _changed_token(folder: Path, proto: bytes) -> str | None:
    """A token that was added to a vocabulary after its `tokenizer.model` was made, or renamed."""
    if not bundle.has(folder, TOKENIZER_CONFIG):
        return None
    added = bundle.read_json(folder, TOKENIZER_CONFIG).get("added_tokens_decoder")
    if not isinstance(added, dict) or not added:
        return None
    pieces = sentencepiece.SentencePieceProcessor(model_proto=proto)
    for index, token in added.items():
        name = token.get("content") if isinstance(token, dict) else token
        there = index.isdecimal() and int(index) < pieces.vocab_size()
        if name != _IMAGE_TOKEN and (not there or pieces.id_to_piece(int(index)) != name):
            return str(name)
    return None


def save(folder: Path, source: Source, max_shard_bytes: int = LARGEST_FILE) -> None:
    """Write a folder that Transformers reads: weights, configuration, tokenizer.

    Raises:
        ValueError: Transformers has no such Gemma, or the folder holds a preset of another kind.
    """
    if source.dtype not in _FLOATS[:3]:
        raise ValueError(
            f"A folder of Transformers holds {', '.join(_FLOATS[:3])}, not {source.dtype}."
        )
    if bundle.has(folder, CONFIG) and "registered_name" in bundle.read_json(folder, CONFIG):
        raise ValueError(f"{folder} holds a preset of KerasHub. Give a new or an empty folder.")
    template = template_of(source.vocabulary, source.chats)
    model = parse_model(source.vocabulary) if source.vocabulary is not None else None
    ids = token_ids(model) if model else {}
    config = huggingface_config(
        source.backbone, source.config, source.dtype, source.context_length, ids
    )
    generation: dict[str, Any] = {f"{name}_token_id": index for name, index in ids.items()}
    files = {CONFIG: encoded(config)}
    if model is not None:
        files |= tokenizer_files(model, source.context_length, template)
        files[VOCABULARY] = source.vocabulary
        generation["eos_token_id"] = stop_ids(model)
    files["generation_config.json"] = encoded(generation)

    def fill(part: Path) -> None:
        for name, content in files.items():
            (part / name).write_bytes(content)
        table = rules(config["model_type"] != "gemma")
        write_safetensors(part, source.writables(table), max_shard_bytes)

    bundle.write_whole(folder, fill, OWNED)
