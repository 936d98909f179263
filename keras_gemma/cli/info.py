"""`keras-gemma info`: about a preset without its weights, or about this installation."""

import importlib.metadata
import platform
from typing import Any

import click

from keras_gemma.backend import BACKENDS
from keras_gemma.cli.common import common, complete_preset
from keras_gemma.presets.sizes import BYTES_PER_NUMBER, cache_bytes
from keras_gemma.presets.table import megabytes

EPILOG = """\
\b
Examples:
  keras-gemma info gemma_2b_en
  keras-gemma info
"""

_LIBRARIES = ("keras", "numpy", *BACKENDS, "tensorflow-text", "sentencepiece", "safetensors")


@click.command(short_help="Tell about a preset, or this installation.", epilog=EPILOG)
@click.argument("preset", required=False, shell_complete=complete_preset)
@common(seed=False)
def command(settings, preset):
    """Sizes, licence and sources of PRESET (a name or a folder); its weights are not loaded.

    Without PRESET: versions, backends and devices.
    """
    facts = preset_facts(preset) if preset else installation(settings)
    if settings.as_json:
        return settings.print_json(facts)
    for line in lines(facts):
        click.echo(line)


def preset_facts(preset: str) -> dict:
    """What is known of a preset, with the bytes that follow from it."""
    from keras_gemma.conversion.description import describe

    facts = {"preset": preset, **describe(preset)}
    count, dtypes = facts["parameters"], BYTES_PER_NUMBER
    facts["weights_bytes"] = {dtype: count * size for dtype, size in dtypes.items()}
    facts["kv_cache_bytes_per_1000_tokens"] = {
        dtype: cache_bytes(facts["architecture"], 1000, dtype) for dtype in dtypes
    }
    return facts


def installation(settings) -> dict:
    """Versions, backends and devices of this machine."""
    from keras_gemma.version import __version__

    facts: dict[str, Any] = {
        "keras_gemma": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    for name in _LIBRARIES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = None
    with settings.status("asking the backend for its devices"):
        facts["backend"] = settings.start_backend()
        import keras

        try:
            facts["devices"] = keras.distribution.list_devices()
        except AttributeError:  # Keras 3.15 lists none on PyTorch; a tensor says where it is
            zero: Any = keras.ops.zeros(())
            facts["devices"] = [str(zero.device)]
    return facts


def lines(facts: dict, indent: str = "") -> list[str]:
    """Facts for people: a line each, and those of a group set in."""
    width = max(len(_title(name)) for name in facts) + 2
    out = []
    for name, value in facts.items():
        title = f"{indent}{_title(name):<{width}}"
        if isinstance(value, dict) and value:
            out += [title.rstrip(), *lines(value, indent + "  ")]
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            out.append(title.rstrip())
            out += [f"{indent}  {', '.join(map(str, item.values()))}" for item in value]
        else:
            out.append(f"{title}{_value(name, value, facts)}")
    return out


def _title(name):
    return name.replace("_", " ") if name.islower() else name


def _value(name, value, facts):
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        # A group by dtype is bytes.
        in_bytes = name in BYTES_PER_NUMBER and set(facts) == set(BYTES_PER_NUMBER)
        return f"{value:,}" + (f"  ({megabytes(value)})" if in_bytes else "")
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value) or "none"
