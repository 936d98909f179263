"""Preset folders of KerasHub, whose layout this library also writes: `model.weights.h5`, or shards."""

import importlib.metadata
from pathlib import Path

from keras_gemma.conversion.checkpoint import Checkpoint, Source
from keras_gemma.conversion.dtypes import DTYPES
from keras_gemma.conversion.keras_hub.h5_file import H5Tensors
from keras_gemma.conversion.keras_hub.h5_writer import write_h5
from keras_gemma.conversion.keras_hub.tensors import KerasHubTensors, stored_dtype
from keras_gemma.conversion.weight_map import Rule, entries
from keras_gemma.presets import bundle
from keras_gemma.presets.errors import BadPresetError
from keras_gemma.presets.sizes import parameter_count, weight_shapes


def rules(backbone: str) -> tuple[Rule, ...]:
    """The table of a backbone class, whose name Keras writes into the paths."""
    block = "gemma3_decoder_block" if backbone == "Gemma3Backbone" else "gemma_decoder_block"
    names = {
        "attention/query/kernel": "attention/query_dense",
        "attention/key/kernel": "attention/key_dense",
        "attention/value/kernel": "attention/value_dense",
        "attention/attention_output/kernel": "attention/output_dense",
        "attention/query_norm/scale": "attention/query_norm",
        "attention/key_norm/scale": "attention/key_norm",
        "ffw_gating/kernel": "gating_ffw",
        "ffw_gating_2/kernel": "gating_ffw_2",
        "ffw_linear/kernel": "ffw_linear",
        "pre_attention_norm/scale": "pre_attention_norm",
        "post_attention_norm/scale": "post_attention_norm",
        "pre_ffw_norm/scale": "pre_ffw_norm",
        "post_ffw_norm/scale": "post_ffw_norm",
    }
    return (
        Rule("token_embedding/embeddings", "layers/reversible_embedding/vars/0"),
        Rule("final_normalization/scale", "layers/rms_normalization/vars/0"),
        *(
            Rule(f"decoder_block_{{i}}/{ours}", f"layers/{block}{{_i}}/{theirs}/vars/0")
            for ours, theirs in names.items()
        ),
    )


def ignored(name: str) -> bool:
    """Whether a file may hold it and no model needs it: states of dropout and of optimizers."""
    return "seed_generator" in name or name.startswith("optimizer/")


def tensors(folder: Path) -> H5Tensors:
    """The weights of a folder, in one file or in those that `model.weights.json` names.

    Raises:
        BadPresetError: a file is missing, truncated or damaged.
    """
    one = folder / bundle.WEIGHTS
    if one.is_file():
        return H5Tensors(one)
    if not bundle.has(folder, bundle.SHARDS):
        raise BadPresetError(bundle.missing(folder, bundle.WEIGHTS))
    index = bundle.read_json(folder, bundle.SHARDS).get("weight_map")
    if not isinstance(index, dict):
        raise BadPresetError(f"{folder / bundle.SHARDS}: 'weight_map' must be an object.")
    lists = [value if isinstance(value, list) else [value] for value in index.values()]
    files = []
    for name in sorted({str(name) for part in lists for name in part}):
        if Path(name).name != name or "\\" in name:
            raise BadPresetError(
                f"{folder / bundle.SHARDS} names {name[:80]!r}; shards lie in the folder itself."
            )
        if not bundle.has(folder, name):
            raise BadPresetError(bundle.missing(folder, name))
        files.append(folder / name)
    return H5Tensors(folder / bundle.SHARDS, files)


def recognizes(place: Path) -> bool:
    """Whether a KerasHub preset lies there: `config.json` names a class, or its weights are there."""
    return bundle.has(place, bundle.WEIGHTS) or bundle.has(place, bundle.SHARDS) or _config(place)


def _config(place):
    return bundle.has(place, "config.json") and (
        "registered_name" in bundle.read_json(place, "config.json")
    )


def open_checkpoint(folder: Path, load_weights: bool = True) -> Checkpoint:
    """The preset in a folder."""
    backbone, config = bundle.read_backbone(folder)
    table = rules(backbone)
    if not load_weights:
        return Checkpoint(backbone, config, None, table, ignored)
    awaited = entries(table, weight_shapes(backbone, config))
    found = KerasHubTensors(tensors(folder), awaited)
    # Old releases don't say it, and a policy may compute in another dtype than it stores.
    config["dtype"] = stored_dtype(found.headers()) or config.get("dtype")
    return Checkpoint(backbone, config, found, table, ignored, found.quantized())


def has_vocabulary(folder: Path) -> bool:
    """Whether there is a tokenizer beside the weights."""
    return bundle.has(folder, "tokenizer.json")


def vocabulary(folder: Path) -> bytes:
    """The tokenizer's SentencePiece model."""
    path = folder / "assets" / "tokenizer" / "vocabulary.spm"
    with bundle.reading(path):
        return path.read_bytes()


def save(folder: Path, source: Source) -> None:
    """Write a preset folder; it appears whole or not at all.

    Raises:
        ValueError: the numbers are to be of a type that such folders do not hold.
    """
    if source.dtype not in DTYPES:
        raise ValueError(f"dtype={source.dtype!r} must be one of {', '.join(DTYPES)} in a preset.")
    family = source.backbone.removesuffix("Backbone")
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": source.dtype},
        "registered_name": None,
    }
    config = {"name": "backbone", "trainable": True, **source.config, "dtype": policy}
    files = {
        "config.json": bundle.serialized(source.backbone, config),
        "metadata.json": bundle.metadata(
            parameter_count(source.backbone, source.config),
            importlib.metadata.version("keras"),
            ("CausalLM",),
        ),
    }
    assets = {}
    if source.vocabulary is not None:
        options = {"name": "tokenizer", "dtype": "int32", "sequence_length": None}
        options |= {"add_bos": False, "add_eos": False, "config_file": "tokenizer.json"}
        record = bundle.serialized(f"{family}Tokenizer", {**options, "proto": None})
        files["tokenizer.json"] = record
        vocabulary = source.vocabulary
        assets["tokenizer"] = lambda place: (place / "vocabulary.spm").write_bytes(vocabulary)
    bundle.write(
        folder,
        files,
        lambda path: write_h5(path.parent, source.writables(rules(source.backbone))),
        assets,
    )
