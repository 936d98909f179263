"""LoRA adapters as PEFT saves them: merged into the weights of their base while these are read.

    adapter_config.json         the base's name, rank, scale, and which matrices were adapted
    adapter_model.safetensors   two narrow matrices, A (rank, in) and B (out, rank), for each

A merged matrix is W + scale B A; with DoRA each of its rows then gets the length that was learned.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import keras_gemma.conversion.huggingface.checkpoint as huggingface
from keras_gemma.conversion.checkpoint import Checkpoint
from keras_gemma.conversion.huggingface.safetensors_file import SafetensorsTensors, open_folder
from keras_gemma.conversion.tensors import Stored, Tensors
from keras_gemma.presets import bundle, registry
from keras_gemma.presets.errors import BadPresetError, PresetAccessError
from keras_gemma.presets.fields import Real, Whole

CONFIG = "adapter_config.json"
_STEM, _TOKENIZER = "adapter_model", ("config", "tokenizer")
PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
# Fields that change no merged weight, whatever stands there.
_PASSED_OVER = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "tasks_type",
    "tokenizer_config",
}
_UNDERSTOOD = {
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
}
# Ways to begin that leave the base as it is; the others ("pissa", …) adapt a changed base.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
_ALPHA, _RANK = Real(0, 1e6), Whole(1, 2**16)


class Adapter(NamedTuple):
    """What is added to one matrix."""

    names: dict[str, str]  # of the tensors, by part
    rank: int
    scale: float


class MergedTensors:
    """The tensors of a base, an adapter's additions made as they are read."""

    def __init__(self, base: Tensors, additions: SafetensorsTensors, adapters: dict[str, Adapter]):
        self.path = additions.path
        self._base, self._additions, self._adapters = base, additions, adapters

    def headers(self) -> dict[str, Stored]:
        """Every tensor of the base; adapted ones come as float32, in which they are added."""
        merged = dict(self._base.headers())
        for name in self._adapters:
            merged[name] = merged[name]._replace(dtype="float32")
        return merged

    def read(self, name: str) -> np.ndarray:
        """The numbers of one tensor."""
        weight, adapter = self._base.read(name), self._adapters.get(name)
        if adapter is None:
            return weight
        narrow, wide, *lengths = (
            self._additions.read(tensor).astype("float32") for tensor in adapter.names.values()
        )
        weight = weight.astype("float32")
        # Numbers that are none, or too large, are told by name when they are loaded.
        with np.errstate(all="ignore"):
            weight += (np.float32(adapter.scale) * wide) @ narrow
            if lengths:
                weight *= (lengths[0] / np.linalg.norm(weight, axis=1))[:, None]
        return weight


def recognizes(place: Path) -> bool:
    """Whether an adapter lies there."""
    return bundle.has(place, CONFIG)


def open_checkpoint(
    folder: Path, load_weights: bool = True, base: Path | None = None
) -> Checkpoint:
    """The base of an adapter, with the adapter merged into it.

    Args:
        folder: of the adapter.
        load_weights: whether weights are wanted at all.
        base: the folder of the base; the one that the adapter names if left out.

    Raises:
        BadPresetError: the adapter is damaged, made for another base, or not plain LoRA.
        PresetAccessError: its base is not here.
    """
    config, where = bundle.read_json(folder, CONFIG), str(folder / CONFIG)
    check_kind(config, where)
    home = base or base_folder(folder, ("config", "weights") if load_weights else ("config",))
    opened = huggingface.open_checkpoint(home, load_weights)
    if opened.tensors is None:
        return opened
    additions = open_additions(folder)
    adapters = adapters_of(config, where, additions, opened.tensors)
    return opened._replace(tensors=MergedTensors(opened.tensors, additions, adapters))


def open_additions(folder: Path) -> SafetensorsTensors:
    """The tensors of an adapter."""
    try:
        return open_folder(folder, _STEM)
    except BadPresetError:
        if bundle.has(folder, f"{_STEM}.safetensors") or not bundle.has(folder, f"{_STEM}.bin"):
            raise
        raise BadPresetError(
            f"{folder} has its weights in {_STEM}.bin, which is not read. Save the adapter as "
            "safetensors: peft.PeftModel.save_pretrained(folder)."
        ) from None


def base_folder(folder: Path, parts: Iterable[str]) -> Path:
    """The folder of the base that an adapter names, fetched where it is not here.

    Args:
        folder: of the adapter.
        parts: what is needed of the base, as in `registry.folder`.

    Raises:
        PresetAccessError: it is not on this machine.
    """
    name = bundle.read_json(folder, CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 1000:
        raise BadPresetError(
            f"{folder / CONFIG}: base_model_name_or_path={name!r:.60} must be the base's name."
        )
    if Path(name).is_dir():
        return Path(name)
    try:
        return registry.folder(name if "://" in name else f"hf://{name}", parts)
    except BadPresetError:
        raise
    except ValueError as error:
        raise PresetAccessError(
            f"The adapter in {folder} belongs to the base {name!r:.200}, which is no folder here "
            f"({error}). Put the base's folder as base_model_name_or_path into {CONFIG}."
        ) from None


def has_vocabulary(folder: Path) -> bool:
    """Whether the adapter or its base has a tokenizer."""
    return any(map(huggingface.has_vocabulary, (folder, base_folder(folder, _TOKENIZER))))


def vocabulary(folder: Path) -> bytes:
    """The tokenizer's SentencePiece model: the adapter's own, or the base's."""
    own = huggingface.has_vocabulary(folder)
    return huggingface.vocabulary(folder if own else base_folder(folder, _TOKENIZER))


def check_kind(config, where):
    """Raises unless the adapter is LoRA with nothing that a merge would leave out."""

    def refused(name, may):
        return BadPresetError(f"{where}: {name}={config[name]!r:.60} is not merged; {may}.")

    if config.get("peft_type", "LORA") != "LORA":
        raise refused("peft_type", "only 'LORA' is")
    if config.get("bias", "none") not in ("none", None):
        raise refused("bias", "only 'none' is")
    begin = config.get("init_lora_weights", True)
    if not any(type(begin) is type(known) and begin == known for known in _BEGINNINGS):
        raise refused("init_lora_weights", "its adapter belongs to a base that it has changed")
    for name, value in config.items():
        if name not in _PASSED_OVER | _UNDERSTOOD and value not in (None, False, [], {}, ""):
            raise refused(name, "this library merges plain LoRA, rsLoRA and DoRA")


def adapters_of(config, where, additions: SafetensorsTensors, base: Tensors) -> dict[str, Adapter]:
    """What is added to each tensor of the base, all seen to fit."""
    targets, stored, found = config.get("target_modules"), additions.headers(), {}
    there = base.headers()
    for module, names in _modules(additions).items():
        last = module.rpartition(".")[2]
        if isinstance(targets, list) and not any(_ends(module, str(t)) for t in targets):
            raise BadPresetError(
                f"{additions.path}: {module} is adapted, and target_modules={targets!r:.100} "
                f"of {where} has no {last}."
            )
        tensor = _tensor_of(module, there)
        if tensor is None:
            raise BadPresetError(
                f"{additions.path} adapts {module}, which can't be merged: the base in "
                f"{base.path} has no such matrix of its layers."
            )
        rank, scale = _rank_and_scale(config, module, where)
        needed = [name for name in PARTS if name != PARTS[2] or config.get("use_dora")]
        if sorted(names) != sorted(needed):
            raise BadPresetError(
                f"{additions.path}: {module} has {', '.join(sorted(names))}; awaited "
                f"{', '.join(needed)}."
            )
        rows, columns = there[tensor].shape
        awaited = dict(zip(PARTS, ((rank, columns), (rows, rank), (rows,)), strict=True))
        for part in needed:
            shape = stored[names[part]].shape
            if shape != awaited[part]:
                raise BadPresetError(
                    f"{additions.path}: {names[part]} has shape {shape}; awaited {awaited[part]} "
                    f"for r={rank} and the base's {tensor} of shape {(rows, columns)} in "
                    f"{base.path}. Is it the adapter of another base?"
                )
        found[tensor] = Adapter({part: names[part] for part in needed}, rank, scale)
    if not found:
        raise BadPresetError(f"{additions.path} adapts nothing.")
    return found


def _modules(additions: SafetensorsTensors) -> dict[str, dict[str, str]]:
    """`{module: {part: tensor's name}}`."""
    modules: dict[str, dict[str, str]] = {}
    for name in additions.headers():
        part = next((part for part in PARTS if name.endswith(f".{part}")), None)
        if part is None:
            raise BadPresetError(
                f"{additions.path}: {name} is no part of a LoRA adapter that can be merged."
            )
        module = name.removeprefix("base_model.model.").removesuffix(f".{part}")
        modules.setdefault(module, {})[part] = name
    return modules


def _tensor_of(module: str, there: Mapping[str, Stored]) -> str | None:
    """The base's tensor that a module's name speaks of, whatever stands before its layers."""
    before, mark, inner = module.partition("layers.")
    # Not the embedding table and the head: they are one, and to adapt one of them parts them.
    if not mark or before not in huggingface.PREFIXES:
        return None
    candidates = (f"{prefix}layers.{inner}.weight" for prefix in huggingface.PREFIXES)
    tensor = next((name for name in candidates if name in there), None)
    return tensor if tensor and len(there[tensor].shape) == 2 else None


def _rank_and_scale(config: Mapping[str, Any], module: str, where: str) -> tuple[int, float]:
    rank: Any = _of_pattern(config, "rank_pattern", module, where, config.get("r"))
    alpha: Any = _of_pattern(config, "alpha_pattern", module, where, config.get("lora_alpha"))
    for name, value, table in (("r", rank, _RANK), ("lora_alpha", alpha, _ALPHA)):
        if not table.fits(value):
            raise BadPresetError(f"{where}: {name}={value!r:.60} must be {table}.")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_pattern(config, name, module, where, usual):
    """What a pattern says of a module: its keys are ends of names, as expressions PEFT allows."""
    patterns = config.get(name) or {}
    if not isinstance(patterns, Mapping):
        raise BadPresetError(f"{where}: {name}={patterns!r:.60} must be an object.")
    for key, value in patterns.items():
        plain = key.removeprefix("^").replace("\\.", ".")
        if not re.fullmatch(r"[\w.]{1,200}", plain):
            raise BadPresetError(f"{where}: {name} has {key!r:.60}; only plain names are read.")
        if module == plain if key.startswith("^") else _ends(module, plain):
            return value
    return usual


def _ends(module, name):
    return module == name or module.endswith(f".{name}")
