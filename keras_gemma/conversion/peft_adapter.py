"""PEFT's LoRA adapters as they are, read and written; `peft.py` merges them into their base.

A rule of Transformers' table, `"(n h) d -> n d h"` say, tells inputs from outputs: their matrix has a row per output.
Letters are those of the rules, and r is the rank.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.conversion import peft
from keras_gemma.conversion.adapters import Adapter, LayerAdapter, LoraOptions
from keras_gemma.conversion.huggingface.checkpoint import rules
from keras_gemma.conversion.huggingface.safetensors_writer import write_file
from keras_gemma.conversion.tensors import Stored, Writable
from keras_gemma.conversion.weight_map import Shape, entries, theirs_axes
from keras_gemma.presets import bundle
from keras_gemma.presets.errors import BadPresetError

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


class _Kernel(NamedTuple):
    """One of our kernels, and their tensor of it."""

    path: str
    outputs: Shape
    inputs: Shape
    tensor: Stored


class _Base(NamedTuple):
    """The headers of a base that is in memory, in Transformers' dress."""

    path: str
    kernels: dict[str, _Kernel]

    def headers(self):
        return {name: kernel.tensor for name, kernel in self.kernels.items()}


def _base(shapes: Mapping[str, Shape], has_post_norms: bool) -> _Base:
    found = {}
    for entry in entries(rules(has_post_norms), shapes):
        (part,) = entry.parts
        outputs, inputs = theirs_axes(entry.pattern, part.shape)
        found[entry.theirs] = _Kernel(part.path, outputs, inputs, Stored(entry.shape, "float32"))
    return _Base("this model", found)


def read(folder: Path, shapes: Mapping[str, Shape], has_post_norms: bool) -> Adapter:
    """The adapter in a folder, for a base whose kernels have these shapes, by path.

    Raises:
        BadPresetError: it is damaged, made for another base, or not plain LoRA.
    """
    config, where = bundle.read_json(folder, peft.CONFIG), str(folder / peft.CONFIG)
    peft.check_kind(config, where)
    additions, base = peft.open_additions(folder), _base(shapes, has_post_norms)
    adapted = {}
    for name, found in peft.adapters_of(config, where, additions, base).items():
        arrays = []
        for tensor in found.names.values():
            array = additions.read(tensor).astype("float32")
            if not np.isfinite(array).all():
                raise BadPresetError(f"{additions.path}: {tensor} has numbers that are not finite.")
            arrays.append(array)
        adapted[base.kernels[name].path] = _to_ours(base.kernels[name], found, config, arrays)
    return Adapter(adapted)


def _to_ours(kernel, found, config, arrays):
    narrow, wide, *lengths = arrays
    rslora, dropout = bool(config.get("use_rslora")), config.get("lora_dropout")
    dropout = dropout if isinstance(dropout, float) and 0 <= dropout < 1 else 0.0
    alpha = found.scale * (math.sqrt(found.rank) if rslora else found.rank)
    a, outputs = narrow.T.reshape(*kernel.inputs, found.rank), kernel.outputs
    if len(outputs) > 1 and outputs[0] == 1:  # Keras's way and PEFT's are one, then
        a, outputs = a[None], outputs[1:]
    options = LoraOptions(
        found.rank, alpha, dropout, rslora, bool(lengths), by_head=len(outputs) == 1
    )
    b = wide.T.reshape(found.rank, *outputs)
    return LayerAdapter(options, a, b, *(array.reshape(kernel.outputs) for array in lengths))


def write(
    folder: Path,
    adapted: Mapping[str, LayerAdapter],
    shapes: Mapping[str, Shape],
    has_post_norms: bool,
    base: str | None = None,
) -> None:
    """Write a folder that PEFT reads.

    An adapter with an A for each of N heads becomes one of N times the rank, for PEFT has one A for
    all: the same product, with zeros in B.

    Args:
        folder: where; what else lies there is left alone.
        adapted: by the path of the kernel.
        shapes: of all kernels of the base, by path.
        has_post_norms: as in `rules`.
        base: the base's name or folder.
    """
    tensors, ranks, alphas = {}, {}, {}
    for name, kernel in _base(shapes, has_post_norms).kernels.items():
        if kernel.path not in adapted:
            continue
        stored, module = adapted[kernel.path], name.removesuffix(".weight")
        narrow, wide = _to_theirs(kernel, stored)
        parts = dict(zip(peft.PARTS, (narrow, wide, stored.magnitude)))
        if stored.magnitude is not None:
            parts[peft.PARTS[2]] = stored.magnitude.reshape(-1)
        tensors |= {f"{_PREFIX}{module}.{k}": v for k, v in parts.items() if v is not None}
        rank, options = len(narrow), stored.options
        ranks[module] = rank
        alphas[module] = options.scale * (math.sqrt(rank) if options.use_rslora else rank)
    options = next(iter(adapted.values())).options
    usual_rank, usual_alpha = min(ranks.values()), min(alphas.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": usual_rank,
        "lora_alpha": usual_alpha,
        "lora_dropout": options.dropout,
        "rank_pattern": {m: rank for m, rank in ranks.items() if rank != usual_rank},
        "alpha_pattern": {m: alpha for m, alpha in alphas.items() if alpha != usual_alpha},
        "target_modules": sorted({module.rpartition(".")[2] for module in ranks}),
        "use_rslora": options.use_rslora,
        "use_dora": options.use_dora,
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)

    def put(name, fill):
        fill(folder / f".{name}.part")
        (folder / f".{name}.part").replace(folder / name)

    found = [Writable(n, v.shape, "float32", lambda v=v: _in_order(v)) for n, v in tensors.items()]
    put(WEIGHTS, lambda path: write_file(path, found))
    text = json.dumps(config, indent=2) + "\n"
    put(peft.CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def _to_theirs(kernel: _Kernel, stored: LayerAdapter) -> tuple[Any, Any]:
    rank = stored.options.rank
    if stored.a.ndim == len(kernel.inputs) + 1:
        return stored.a.reshape(-1, rank).T, stored.b.reshape(rank, -1).T
    heads = len(stored.a)
    narrow = stored.a.swapaxes(1, 2).reshape(heads * rank, -1)
    return narrow, np.kron(np.eye(heads, dtype="float32"), stored.b.T)


def _in_order(array):
    return np.ascontiguousarray(array, "float32")
