"""DeepMind's PyTorch checkpoints, as google/gemma_pytorch reads them.

    gemma-2b.ckpt       {"model_state_dict": tensors}, or a folder that holds it,
    or pytorch_model.bin.index.json and the files of tensors that it names
    tokenizer.model     the vocabulary
    config.json         sizes; needed where shapes do not tell them

What this library writes has the sizes in the `.ckpt` itself, under "config"; its other readers pass
over them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from keras_gemma.conversion.checkpoint import Checkpoint, Source
from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.from_shapes import (
    Seen,
    architecture,
    check_told,
    said_beside,
    told,
)
from keras_gemma.conversion.gemma_pytorch.torch_file import TorchTensors, is_torch_file
from keras_gemma.conversion.gemma_pytorch.torch_writer import write_torch
from keras_gemma.conversion.tensors import Stored
from keras_gemma.conversion.weight_map import Rule
from keras_gemma.presets import bundle
from keras_gemma.presets.errors import BadPresetError

INDEX = "pytorch_model.bin.index.json"
VOCABULARY = "tokenizer.model"
_SUFFIXES = (".ckpt", ".pt", ".pth")
_LAYER = "model.layers.{i}."
# The table of the models that also read images has a name of its own.
_EMBEDDERS = ("embedder.weight", "text_token_embedder.weight")
_IGNORED = ("siglip_vision_model.", "mm_soft_embedding_norm.", "mm_input_projection.")


def rules(post_norms: bool, embedder: str = _EMBEDDERS[0]) -> tuple[Rule, ...]:
    """The table; a norm's name means another norm where there are norms after attention."""
    attention = {
        ("query/kernel", "key/kernel", "value/kernel"): ("qkv_proj", "(n h) d -> n d h"),
        "attention_output/kernel": ("o_proj", "d (n h) -> n h d"),
        "query_norm/scale": ("query_norm", ""),
        "key_norm/scale": ("key_norm", ""),
    }
    other = {
        "ffw_gating/kernel": ("mlp.gate_proj", "f d -> d f"),
        "ffw_gating_2/kernel": ("mlp.up_proj", "f d -> d f"),
        "ffw_linear/kernel": ("mlp.down_proj", "d f -> f d"),
        "pre_attention_norm/scale": ("input_layernorm", ""),
    }
    if post_norms:
        other["post_attention_norm/scale"] = ("post_attention_layernorm", "")
        other["pre_ffw_norm/scale"] = ("pre_feedforward_layernorm", "")
        other["post_ffw_norm/scale"] = ("post_feedforward_layernorm", "")
    else:
        other["pre_ffw_norm/scale"] = ("post_attention_layernorm", "")
    block = "decoder_block_{i}/"
    return (
        Rule("token_embedding/embeddings", embedder),
        Rule("final_normalization/scale", "model.norm.weight"),
        *(
            Rule(
                tuple(f"{block}attention/{name}" for name in ours)
                if isinstance(ours, tuple)
                else f"{block}attention/{ours}",
                f"{_LAYER}self_attn.{theirs}.weight",
                pattern,
            )
            for ours, (theirs, pattern) in attention.items()
        ),
        *(
            Rule(f"{block}{ours}", f"{_LAYER}{theirs}.weight", pattern)
            for ours, (theirs, pattern) in other.items()
        ),
    )


def ignored(name: str) -> bool:
    """Whether a file may hold it and no model of text needs it: tables of angles, what reads images."""
    return name.endswith("freqs_cis") or name.startswith(_IGNORED)


class GemmaTensors:
    """The tensors of one file or several; numbers in int8 come with their scale multiplied in."""

    def __init__(self, path: Path, files: list[Path]):
        self.path = path
        self.said: dict[str, Any] | None = None
        self._files: dict[str, TorchTensors] = {}
        self._stored: dict[str, Stored] = {}
        for file in map(TorchTensors, files):
            said = file.extra.get("config")
            self.said = said if isinstance(said, dict) else self.said
            for name, stored in file.headers().items():
                if name in self._stored:
                    raise BadPresetError(f"{file.path}: {name} is in another file, too.")
                self._stored[name], self._files[name] = stored, file
        self._scales = {
            name: scale
            for name, stored in self._stored.items()
            if stored.dtype == "int8"
            and self._stored.get(scale := f"{name}_scaler", stored).shape == stored.shape[:1]
        }

    def headers(self) -> dict[str, Stored]:
        """Every tensor there is, as `read` gives it."""
        scales = set(self._scales.values())
        found = {}
        for name, stored in self._stored.items():
            if name in self._scales:
                stored = stored._replace(dtype=self._stored[self._scales[name]].dtype)
            elif stored.dtype not in DTYPES and not ignored(name):
                raise BadPresetError(
                    f"{self.path}: {name} holds {stored.dtype}, which are no weights."
                )
            if name not in scales:
                found[name] = stored
        return found

    def read(self, name: str) -> np.ndarray:
        """The numbers of one tensor."""
        numbers = self._files[name].read(name)
        if scale := self._scales.get(name):
            by_row = self._files[scale].read(scale)
            numbers = numbers.astype(by_row.dtype)
            numbers *= by_row.reshape(-1, *(1,) * (numbers.ndim - 1))
        return numbers


def recognizes(place: Path) -> bool:
    """Whether it is such a file, or a folder with one, or with the index of several."""
    if place.is_file():
        return place.suffix in _SUFFIXES and is_torch_file(place)
    return bool(_checkpoints(place)) or (bundle.has(place, INDEX) and bool(_indexed(place)))


def open_checkpoint(place: Path, load_weights: bool = True) -> Checkpoint:
    """The checkpoint; its sizes are in its headers, which are read in any case."""
    tensors = GemmaTensors(place, _files(place))
    headers = tensors.headers()
    seen, embedder = _seen(headers, place)
    folder = place if place.is_dir() else place.parent
    backbone, config = architecture(seen, place, tensors.said or said_beside(folder))
    config["dtype"] = headers[embedder].dtype
    table = rules(seen.post_norms, embedder)
    return Checkpoint(backbone, config, tensors if load_weights else None, table, ignored)


def vocabulary(place: Path) -> bytes:
    """The tokenizer's SentencePiece model, which lies beside the tensors."""
    path = (place if place.is_dir() else place.parent) / VOCABULARY
    with bundle.reading(path):
        return path.read_bytes()


def has_vocabulary(place: Path) -> bool:
    """Whether it came with its tokenizer."""
    return bundle.has(place if place.is_dir() else place.parent, VOCABULARY)


def save(place: Path, source: Source) -> None:
    """Write a `.ckpt`, and `tokenizer.model` beside it.

    Raises:
        ValueError: DeepMind has no such Gemma, or these files don't hold such numbers, or another
            model's `tokenizer.model` lies there.
    """
    if source.dtype not in DTYPES:
        raise ValueError(f"dtype={source.dtype!r} is not written; choose from {', '.join(DTYPES)}.")
    beside = place.with_name(VOCABULARY)
    if source.vocabulary and beside.exists() and beside.read_bytes() != source.vocabulary:
        raise ValueError(f"{beside} is of another model; choose another folder for {place.name}.")
    config = source.config
    check_told(source.backbone, config, place)
    place.parent.mkdir(parents=True, exist_ok=True)
    post_norms = any(config.get(f"use_post_{name}_norm") for name in ("attention", "ffw"))
    writables = source.writables(rules(post_norms))
    write_torch(place, writables, {"config": told(source.backbone, config)})
    if source.vocabulary:
        beside.write_bytes(source.vocabulary)


def _seen(headers, place):
    """`(what the shapes tell, name of the table)`."""
    names = [name for name in _EMBEDDERS if name in headers]
    if len(names) != 1:
        raise BadPresetError(f"{place} holds no tensor {' or '.join(_EMBEDDERS)}: no Gemma.")

    def shape(name, sizes):
        found = headers[name].shape if name in headers else ()
        if len(found) != sizes:
            raise BadPresetError(f"{place}: {name} is missing, or has a shape {found}.")
        return found

    first = _LAYER.format(i=0)
    vocabulary_size, width = shape(names[0], 2)
    rows, query_width = (
        shape(f"{first}self_attn.qkv_proj.weight", 2)[0],
        shape(f"{first}self_attn.o_proj.weight", 2)[1],
    )
    norm = f"{first}self_attn.query_norm.weight"
    layers = [name.split(".")[2] for name in headers if name.startswith("model.layers.")]
    seen = Seen(
        vocabulary_size,
        1 + max((int(n) for n in layers if n.isdecimal() and len(n) < 6), default=-1),
        width,
        shape(f"{first}mlp.gate_proj.weight", 2)[0],
        query_width,
        max(0, rows - query_width) // 2,
        shape(norm, 1)[0] if norm in headers else None,
        f"{first}pre_feedforward_layernorm.weight" in headers,
        norm in headers,
    )
    return seen, names[0]


def _checkpoints(folder):
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix in _SUFFIXES and is_torch_file(path)
    )


def _indexed(folder):
    """The files that an index names, if it is one of Gemma's own and not of Hugging Face's names."""
    table = bundle.read_json(folder, INDEX).get("weight_map")
    if not isinstance(table, dict) or not any(name in table for name in _EMBEDDERS):
        return []
    return sorted({str(file) for file in table.values()})


def _files(place):
    if place.is_file():
        return [place]
    found = _checkpoints(place)
    if len(found) > 1:
        raise BadPresetError(
            f"{place} holds {len(found)} checkpoints; name one: {found[0].name}, …"
        )
    if found:
        return found
    files = []
    for name in _indexed(place) if bundle.has(place, INDEX) else ():
        if Path(name).name != name or "\\" in name:
            raise BadPresetError(
                f"{place / INDEX} names {name[:80]!r}; its files lie in the folder itself."
            )
        if not bundle.has(place, name):
            raise BadPresetError(bundle.missing(place, name))
        files.append(place / name)
    if not files:
        raise BadPresetError(f"{place} holds no checkpoint of gemma_pytorch.")
    return files
