"""`.lora.h5`: adapters as KerasHub saves them, and what it has no word for beside it.

    lora/vars/rank                      one for all layers
    lora/LAYER/vars/lora_kernel_a, _b   LAYER counts the layers that have weights

KerasHub knows one scale, 1: the real one is in `lora_kernel_b`. `lora_alpha` and the like are ours. The matrices
of a DoRA are named `dora_kernel_a`, …: they alone are not what was trained, and KerasHub is not to take them for it.
"""

import contextlib
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_gemma.conversion.adapters import Adapter, LayerAdapter, LoraOptions
from keras_gemma.conversion.keras_hub.h5_file import H5Tensors
from keras_gemma.presets.errors import BadPresetError

SUFFIX = ".lora.h5"
_ENTRY = re.compile(r"lora/(?:(\d{1,6})/)?vars/(\w{1,40})")
_PARTS = "lora_kernel_a", "lora_kernel_b", "dora_kernel_a", "dora_kernel_b", "dora_magnitude"
_OURS = "lora_alpha", "use_rslora", "by_head"


def write(path: Path, adapter: Adapter, layers: Sequence[str]) -> None:
    """Write a file, whole or not at all. `layers` are all kernels' paths at KerasHub's numbers.

    Raises:
        ValueError: the layers' ranks differ, for which there is no place.
    """
    import h5py

    ranks = {stored.options.rank for stored in adapter.layers.values()}
    if len(ranks) > 1:
        raise ValueError(
            f"A {SUFFIX} file has one rank, and this adapter has {sorted(ranks)}: save it with "
            "format='peft'."
        )
    arrays = {"lora/vars/rank": np.asarray(ranks.pop())}
    if adapter.fingerprint is not None:
        arrays["lora/vars/fingerprint"] = np.frombuffer(bytes.fromhex(adapter.fingerprint), "uint8")
    for place, stored in adapter.layers.items():
        options, home = stored.options, f"lora/{layers.index(place)}/vars"
        kind = "dora" if options.use_dora else "lora"
        arrays |= {
            f"{home}/{kind}_kernel_a": stored.a,
            f"{home}/{kind}_kernel_b": stored.b * np.float32(options.scale),
            f"{home}/lora_alpha": np.asarray(float(options.alpha)),
            f"{home}/use_rslora": np.asarray(int(options.use_rslora)),
            f"{home}/by_head": np.asarray(int(options.by_head)),
        }
        if stored.magnitude is not None:
            arrays[f"{home}/dora_magnitude"] = stored.magnitude
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
    try:
        with h5py.File(part, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array)
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def read(path: Path, layers: Sequence[str]) -> Adapter:
    """The adapter in a file.

    Raises:
        BadPresetError: the file is missing or damaged, or holds something else.
    """
    if not path.is_file():
        raise BadPresetError(f"There is no file {path}.")
    tensors = H5Tensors(path)
    found: dict[str | None, dict[str, np.ndarray]] = {}
    for name, stored in tensors.headers().items():
        match = _ENTRY.fullmatch(name)
        known = ("rank", "fingerprint") if match and match[1] is None else (*_PARTS, *_OURS)
        if match is None or match[2] not in known:
            raise BadPresetError(f"{path}: {name} is no part of a {SUFFIX} file.")
        array = tensors.read(name)
        if stored.dtype == "bfloat16" or array.dtype.kind == "f":
            array = array.astype("float32")
            if not np.isfinite(array).all():
                raise BadPresetError(f"{path}: {name} has numbers that are not finite.")
        found.setdefault(match[1], {})[match[2]] = array
    whole = found.pop(None, {})
    if "rank" not in whole or whole["rank"].shape or not found:
        raise BadPresetError(f"{path} has no LoRA weights in it.")
    rank, adapted = int(whole["rank"]), {}
    for number, arrays in sorted(found.items(), key=lambda item: int(item[0] or 0)):
        place = layers[int(number or 0)] if int(number or 0) < len(layers) else None
        if not place:
            raise BadPresetError(
                f"{path} adapts layer {number}, which is no dense layer of this backbone. Is it the "
                "adapter of another base?"
            )
        adapted[place] = _layer(path, place, rank, arrays)
    mark = whole.get("fingerprint")
    return Adapter(adapted, mark.astype("uint8").tobytes().hex() if mark is not None else None)


def _layer(path, place, rank, arrays):
    kind = "dora" if "dora_kernel_a" in arrays else "lora"
    needed = {f"{kind}_kernel_a", f"{kind}_kernel_b"} | (
        {"dora_magnitude"} if kind == "dora" else set()
    )
    if needed != set(arrays) - set(_OURS):
        raise BadPresetError(
            f"{path}: {place} has {', '.join(sorted(arrays))}; awaited {', '.join(sorted(needed))}."
        )

    def number(name, default):
        array = arrays.get(name, np.asarray(default))
        if array.size != 1:
            raise BadPresetError(f"{path}: {name} of {place} has shape {array.shape}.")
        return array.item()

    try:
        options = LoraOptions(
            rank,
            number("lora_alpha", rank),
            use_rslora=bool(number("use_rslora", 0)),
            use_dora=kind == "dora",
            by_head=bool(number("by_head", 1)),
        )
    except ValueError as error:
        raise BadPresetError(f"{path}: {place}: {error}") from None
    b = arrays[f"{kind}_kernel_b"] / np.float32(options.scale)
    return LayerAdapter(options, arrays[f"{kind}_kernel_a"], b, arrays.get("dora_magnitude"))
