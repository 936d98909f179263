"""DeepMind's Flax checkpoints in Orbax folders, as the package `gemma` writes them.

    _METADATA, manifest.ocdbt, d/, …    the tensors (older ones: a folder `NAME/` with `.zarray` each)
    tokenizer.model                     the vocabulary, there or one folder up
    config.json                         sizes; needed where shapes do not tell them

The official ones have flat names (`transformer/layer_0/attn/q_einsum` with a `w` in it), those that
the library saves are nested, and those of its trainer lie under `params`: names are made one.
"""

import re
from pathlib import Path

import numpy as np

from keras_gemma.conversion.checkpoint import Checkpoint
from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.from_shapes import Seen, architecture, said_beside
from keras_gemma.conversion.orbax.file import OrbaxTensors
from keras_gemma.conversion.tensors import Stored
from keras_gemma.conversion.weight_map import Rule
from keras_gemma.presets import bundle
from keras_gemma.presets.errors import BadPresetError

VOCABULARY = "tokenizer.model"
_EMBEDDING = "embedder/input_embedding"
_ATTENTION = "layer_{i}/attn/"
# DeepMind's table of 256,000 pieces has empty rows at its end.
_PADDED, _PIECES = 256_128, 256_000
_IGNORED = re.compile(
    r"(vision_encoder|SigLiPFromPatches_0|audio_encoder|opt_state|step|collections|"
    r"embedder/(mm|audio)_)"
)


def rules(gating_is_transposed: bool, fused: bool) -> tuple[Rule, ...]:
    """The table.

    Args:
        gating_is_transposed: whether `gating_einsum` has the model's width last, as in newer ones.
        fused: whether queries, keys and values lie in one tensor, as where their heads are as many.
    """
    block, kernel = "decoder_block_{i}/", "decoder_block_{i}/attention/{}/kernel"
    query, key, value = (kernel.replace("{}", name) for name in ("query", "key", "value"))
    attention = (
        (Rule((query, key, value), f"{_ATTENTION}qkv_einsum/w", "1 n d h -> n d h"),)
        if fused
        else (
            Rule(query, f"{_ATTENTION}q_einsum/w"),
            Rule((key, value), f"{_ATTENTION}kv_einsum/w", "1 k d h -> k d h"),
        )
    )
    names = ("pre_attention_norm", "post_attention_norm", "pre_ffw_norm", "post_ffw_norm")
    return (
        Rule("token_embedding/embeddings", _EMBEDDING),
        Rule("final_normalization/scale", "final_norm/scale"),
        *attention,
        Rule(f"{block}attention/attention_output/kernel", f"{_ATTENTION}attn_vec_einsum/w"),
        Rule(f"{block}attention/query_norm/scale", f"{_ATTENTION}_query_norm/scale"),
        Rule(f"{block}attention/key_norm/scale", f"{_ATTENTION}_key_norm/scale"),
        Rule(
            (f"{block}ffw_gating/kernel", f"{block}ffw_gating_2/kernel"),
            "layer_{i}/mlp/gating_einsum",
            "1 f d -> d f" if gating_is_transposed else "1 d f -> d f",
        ),
        Rule(f"{block}ffw_linear/kernel", "layer_{i}/mlp/linear"),
        *(Rule(f"{block}{name}/scale", f"layer_{{i}}/{name}/scale") for name in names),
    )


def ignored(name: str) -> bool:
    """Whether a folder may hold it and no model of text needs it: images, sounds, optimizers."""
    return bool(_IGNORED.match(name))


class GemmaTensors:
    """The tensors of a folder under one kind of name, the padding of the table cut off."""

    def __init__(self, folder: Path):
        self.path = folder
        self._tensors = OrbaxTensors(folder)
        self._names: dict[str, str] = {}
        for name, stored in self._tensors.headers().items():
            plain = plain_name(name)
            if stored.dtype not in DTYPES and not ignored(plain):
                raise BadPresetError(
                    f"{folder}: {plain} holds {stored.dtype}, which are no weights."
                )
            if plain in self._names:
                raise BadPresetError(
                    f"{folder}: {plain} is there twice: {self._names[plain]}, {name}."
                )
            self._names[plain] = name

    def headers(self) -> dict[str, Stored]:
        """Every tensor there is."""
        stored = self._tensors.headers()
        found = {plain: stored[name] for plain, name in self._names.items()}
        if (table := found.get(_EMBEDDING)) and table.shape[:1] == (_PADDED,):
            found[_EMBEDDING] = table._replace(shape=(_PIECES, *table.shape[1:]))
        return found

    def read(self, name: str) -> np.ndarray:
        """The numbers of one tensor."""
        array = self._tensors.read(self._names[name])
        return array[:_PIECES] if name == _EMBEDDING and len(array) == _PADDED else array


def plain_name(name: str) -> str:
    """One name for what flat, nested and trainers' checkpoints call differently.

    >>> plain_name("transformer/layer_0/mlp/linear.w")
    'layer_0/mlp/linear'
    >>> plain_name("params.layer_0.attn.q_einsum.w")
    'layer_0/attn/q_einsum/w'
    """
    plain = re.sub(r"[.&]", "/", name).removeprefix("params/").removeprefix("transformer/")
    return re.sub(r"(mlp/(?:linear|gating_einsum))/w$", r"\1", plain)


def recognizes(place: Path) -> bool:
    """Whether an Orbax checkpoint lies there, or in the one folder there."""
    return _folder(place) is not None


def open_checkpoint(place: Path, load_weights: bool = True) -> Checkpoint:
    """The checkpoint; its sizes are in its headers, which are read in any case."""
    folder = _found(place)
    tensors = GemmaTensors(folder)
    headers = tensors.headers()
    seen, transposed, fused = _seen(headers, folder)
    said = said_beside(folder) or said_beside(folder.parent)
    backbone, config = architecture(seen, folder, said)
    config["dtype"] = headers[_EMBEDDING].dtype
    return Checkpoint(
        backbone, config, tensors if load_weights else None, rules(transposed, fused), ignored
    )


def vocabulary(place: Path) -> bytes:
    """The tokenizer's SentencePiece model, which lies in the folder or one up."""
    path = _vocabulary(place)
    with bundle.reading(path):
        return path.read_bytes()


def has_vocabulary(place: Path) -> bool:
    """Whether it came with its tokenizer."""
    return _vocabulary(place).is_file()


def _vocabulary(place):
    folder = _found(place)
    inside = folder / VOCABULARY
    return inside if inside.is_file() else folder.parent / VOCABULARY


def _folder(place):
    if not place.is_dir():
        return None
    if _is_orbax(place):
        return place
    inside = [path for path in place.iterdir() if path.is_dir() and _is_orbax(path)]
    return inside[0] if len(inside) == 1 else None


def _is_orbax(folder):
    marks = ("manifest.ocdbt", "_METADATA", "_CHECKPOINT_METADATA")
    return any((folder / mark).is_file() for mark in marks)


def _found(place):
    folder = _folder(place)
    if folder is None:
        raise BadPresetError(f"{place} holds no Orbax checkpoint.")
    return folder


def _seen(headers, place):
    """`(what the shapes tell, is gating transposed, are q, k and v fused)`."""

    def shape(name, sizes):
        found = headers[name].shape if name in headers else None
        if found is None or len(found) != sizes:
            raise BadPresetError(
                f"{place}: {name} is missing, or has a shape {found}: it is no checkpoint of Gemma."
            )
        return found

    first = _ATTENTION.format(i=0)
    vocabulary_size, width = shape(_EMBEDDING, 2)
    heads, head_dim, _ = shape(f"{first}attn_vec_einsum/w", 3)
    fused = f"{first}qkv_einsum/w" in headers
    groups = heads if fused else shape(f"{first}kv_einsum/w", 4)[1]
    ffw_dim, _ = shape("layer_0/mlp/linear", 2)
    gating = shape("layer_0/mlp/gating_einsum", 3)
    layers = [name[6:].partition("/")[0] for name in headers if name.startswith("layer_")]
    seen = Seen(
        vocabulary_size,
        1 + max((int(n) for n in layers if n.isdecimal() and len(n) < 6), default=-1),
        width,
        ffw_dim,
        heads * head_dim,
        groups * head_dim,
        head_dim,
        "layer_0/post_attention_norm/scale" in headers,
        f"{first}_query_norm/scale" in headers,
    )
    return seen, gating[1:] != (width, ffw_dim), fused
