"""`keras-gemma info`: about a preset without its weights, or about this installation."""

import datetime
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import click

from keras_gemma.backend import BACKENDS
from keras_gemma.cli.common import common, complete_preset, model_class
from keras_gemma.cli.progress import progress_bars
from keras_gemma.presets.sizes import BYTES_PER_NUMBER, cache_bytes
from keras_gemma.presets.table import megabytes
from keras_gemma.version import __version__

EPILOG = """\
\b
Examples:
  keras-gemma info gemma_2b_en
  keras-gemma info
  keras-gemma info gemma_2b_en --record
  keras-gemma info ./folder --record --out measured.json
"""

_LIBRARIES = ("keras", "numpy", *BACKENDS, "tensorflow-text", "sentencepiece", "safetensors")


@click.command(short_help="Tell about a preset, or this installation.", epilog=EPILOG)
@click.argument("preset", required=False, shell_complete=complete_preset)
@click.option("--record", is_flag=True, help="Fetch it, measure it, and write that down.")
@click.option("--dtype", default="float32", show_default=True, help="What --record computes in.")
@click.option("--out", type=click.Path(path_type=Path), help="Where --record writes.")
@common(seed=False)
def command(settings, preset, record, dtype, out):
    """Sizes, licence and sources of PRESET (a name or a folder); its weights are not loaded.

    Without PRESET: versions, backends, devices, and the kernels that generation uses.

    With --record it is loaded, and the sha256 of its files and the logits of a few prompts are
    written: of a published preset into its card, where downloads look for them; of a folder to OUT,
    or to stdout.
    """
    if record:
        return recorded(settings, preset, dtype, out)
    facts = preset_facts(preset, settings.as_json) if preset else installation(settings)
    if settings.as_json:
        return settings.print_json(facts)
    for line in lines(facts):
        click.echo(line)


def preset_facts(preset: str, everything: bool = True) -> dict:
    """What is known of a preset, with the bytes that follow from it."""
    from keras_gemma.conversion.description import describe

    facts = {"preset": preset, **describe(preset)}
    for name in ("checksums", "golden_logits"):  # for programs: a line for each file is too much
        if name in facts and not everything:
            facts[name] = "recorded"
    count, dtypes = facts["parameters"], BYTES_PER_NUMBER
    facts["weights_bytes"] = {dtype: count * size for dtype, size in dtypes.items()}
    facts["kv_cache_bytes_per_1000_tokens"] = {
        dtype: cache_bytes(facts["architecture"], 1000, dtype) for dtype in dtypes
    }
    return facts


def recorded(settings, preset, dtype, out) -> None:
    """Measure a preset and write it down."""
    if not preset:
        raise click.UsageError("--record needs a PRESET.")
    from keras_gemma.presets import recording, registry

    with progress_bars(settings) as progress:
        place = registry.folder(preset, progress=progress, say=settings.note)
    known = recording.published(preset)
    with settings.status("summing up the files"):
        sums = recording.checksums(place, recording.files_of(preset, place))
    with settings.status(f"loading {preset}"):
        golden: dict[str, Any] = {"dtype": dtype, "backend": settings.start_backend()}
        versions = {"keras_gemma": installed("keras_gemma"), "keras": installed("keras")}
        from keras_gemma import models
        from keras_gemma.models.golden_logits import golden_logits

        model = getattr(models, model_class(preset)).from_preset(preset, dtype=dtype)
        golden |= {
            "versions": {**versions, golden["backend"]: installed(golden["backend"])},
            "date": datetime.date.today().isoformat(),
            "prompts": golden_logits(model),
        }
    if known:
        written = recording.write_card(*known, sums, golden, out)
    else:
        found = {"preset": preset, "checksums": sums, "golden_logits": golden}
        if out is None:
            return settings.print_json(found)
        written = recording.write_record(found, out)
    if settings.as_json:
        return settings.print_json({"preset": preset, "written": str(written)})
    click.echo(
        f"{written}: the sums of {len(sums)} files, the logits of {len(golden['prompts'])} prompts"
    )


def installed(name: str) -> str | None:
    """A library's version; None where it is not installed."""
    if name == "keras_gemma":
        return __version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def installation(settings) -> dict:
    """Versions, backends and devices of this machine, and whether it has CPU kernels."""
    facts: dict[str, Any] = {
        "keras_gemma": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    facts |= {name: installed(name) for name in _LIBRARIES}
    with settings.status("asking the backend for its devices"):
        facts["backend"] = settings.start_backend()
        import keras

        try:
            facts["devices"] = keras.distribution.list_devices()
        except AttributeError:  # Keras 3.15 lists none on PyTorch; a tensor says where it is
            zero: Any = keras.ops.zeros(())
            facts["devices"] = [str(zero.device)]
        from keras_gemma.generation import kernels

        found = kernels.found()
    facts["kernels"] = {"used": found.used, "which": found.told}
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
