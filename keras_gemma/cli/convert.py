"""`keras-gemma convert`: a checkpoint in another format."""

from pathlib import Path

import click

from keras_gemma.cli.common import common, complete_preset
from keras_gemma.cli.progress import progress_bars

EPILOG = """\
\b
Examples:
  keras-gemma convert gemma_tiny_en ./gemma.gguf
  keras-gemma convert ./folder ./for_transformers --format huggingface
  keras-gemma convert gemma_tiny_en ./small.gguf --dtype q8_0
"""

DTYPES = ("float32", "bfloat16", "float16", "q8_0", "q4_0")


@click.command(short_help="Write a checkpoint in another format.", epilog=EPILOG)
@click.argument("preset", shell_complete=complete_preset)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--format", "format_", metavar="NAME", help="The format to write.")
@click.option("--dtype", type=click.Choice(DTYPES), help="What the numbers are written as.")
@common(seed=False)
def command(settings, preset, out, format_, dtype):
    """Write PRESET (a name, a handle, a folder or a file) as OUT, tensor by tensor.

    Formats: keras_hub, huggingface and gemma_pytorch, gguf; OUT.gguf and OUT.ckpt tell theirs. The
    numbers stay what they are without --dtype; q8_0 and q4_0 are for GGUF. OUT appears whole or
    not at all.
    """
    from keras_gemma.presets import registry

    with progress_bars(settings) as progress:
        place = registry.folder(preset, progress=progress, say=settings.note)
    settings.start_backend()  # Keras, which the formats lean on, is not to choose by itself
    from keras_gemma.conversion.convert import convert

    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise click.UsageError(f"{out} is there already. Remove it, or choose another name.")
    with settings.status(f"converting {preset}"):
        name = convert(place, out, format_, dtype, chats=_chats(preset))
    size = sum(path.stat().st_size for path in [out, *out.rglob("*")] if path.is_file())
    if settings.as_json:
        return settings.print_json({"out": str(out), "format": name, "bytes": size})
    click.echo(f"{out}: {name}, {size:,} bytes")


def _chats(preset):
    """Whether a model with a card was tuned on turns; None where there is no card."""
    from keras_gemma.presets import registry

    name = registry.alias(preset) or preset
    known = name in registry.names() and (registry.is_bundled(name) or not Path(preset).is_dir())
    return registry.card(name)["kind"] not in ("base", "code") if known else None
