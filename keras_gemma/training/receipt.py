"""What a run depended on and came to, so that it can be repeated and compared."""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_gemma import arrays
from keras_gemma.backend import choose_backend
from keras_gemma.version import __version__

NAME = "receipt.json"


def begin(folder: Path, data: Mapping[str, Any], seed: int | None, weights: str) -> None:
    """Write down what a run begins with: versions, machine, command, data, hash of its weights."""
    recipe = folder / "recipe.json"
    _write(
        folder,
        {
            "began": time.strftime("%FT%T%z"),
            "command": sys.argv,
            "environment": environment(),
            "recipe": json.loads(recipe.read_text(encoding="utf-8")) if recipe.exists() else None,
            "data": dict(data),
            "order_seed": seed,
            "weights_at_start": weights,
        },
    )


def end(folder: Path, step: int, weights: str, logs: Mapping[str, float]) -> None:
    """Add what the run came to."""
    done = {"ended": time.strftime("%FT%T%z"), "steps": step, "weights_at_end": weights}
    _write(folder, {**read(folder), **done, "logs": dict(logs)})


def read(folder: Path) -> dict[str, Any]:
    """The receipt of a run.

    Raises:
        ValueError: there is none.
    """
    try:
        return json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {NAME}: it is no folder of a run.") from None


def environment() -> dict[str, Any]:
    """Versions and the machine: where these are equal, numbers are."""
    backend = choose_backend()
    return {
        "keras_gemma": __version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backend": backend,
        backend: importlib.metadata.version(backend),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": arrays.device_kind(),
        "processor": _processor("model name") or platform.processor(),
        "flags": _processor("flags"),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }


def _processor(field):
    """A field of Linux's list of processors; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(": ")[-1] for line in lines if line.startswith(field)), "")


def _write(folder, content):
    part = folder / f"{NAME}.part"
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / NAME)
