"""`keras-gemma download`: bring a preset to this machine, going on where it was interrupted."""

import click

from keras_gemma.cli.common import common, complete_preset
from keras_gemma.cli.progress import progress_bars
from keras_gemma.presets.parts import PARTS

EPILOG = """\
\b
Examples:
  keras-gemma download gemma_2b_en
  keras-gemma download hf://google/gemma-2b-it --parts config,tokenizer
  keras-gemma download hf://OWNER/REPOSITORY/model.gguf

\b
A hub keeps its files in its own cache: HF_HUB_CACHE or KAGGLEHUB_CACHE moves it; other places are
copied to KERAS_GEMMA_HOME.
"""


def _parts(context, parameter, value):
    return tuple(part.strip() for part in value.split(",") if part.strip())


@click.command(short_help="Bring a preset to this machine.", epilog=EPILOG)
@click.argument("preset", shell_complete=complete_preset)
@click.option(
    "--parts",
    default=",".join(PARTS),
    show_default=True,
    callback=_parts,
    help="What is needed, by commas.",
)
@common(seed=False)
def command(settings, preset, parts):
    """Fetch PRESET: a name, or a handle (kaggle://, hf://, gs://, s3://, https://).

    Prints the folder. What is here already is not fetched again; interrupt it, run it again, and it
    goes on where it stopped.
    """
    from keras_gemma.presets import registry

    with progress_bars(settings) as bars:
        folder = registry.folder(preset, parts, progress=bars, say=settings.note)
    if settings.as_json:
        return settings.print_json({"preset": preset, "parts": list(parts), "folder": str(folder)})
    click.echo(str(folder))
