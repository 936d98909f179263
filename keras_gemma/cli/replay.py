"""`keras-gemma replay RUN`: repeat a run, and say whether the same came out."""

from pathlib import Path

import click

from keras_gemma.cli.common import common

EPILOG = """\
\b
Examples:
  keras-gemma replay runs/a
  keras-gemma replay runs/a --backend jax

\b
Exit code 0: the same, bit for bit. 1: something differs; the first difference is told.
"""


@click.command(short_help="Repeat a run and compare.", epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@common(seed=False)
def command(settings, run):
    """Train again as RUN/recipe.json says, on the backend of RUN/receipt.json, and compare.

    Compared are the data, the losses in the log and the weights, bit for bit.
    """
    import json

    receipt = run / "receipt.json"
    if settings.backend is None and receipt.exists():
        settings.backend = json.loads(receipt.read_text(encoding="utf-8"))["environment"]["backend"]
    with settings.status("starting the backend"):
        settings.start_backend()
        from keras_gemma.training.replay import replay
    from keras_gemma.cli.train import progress

    with progress(settings) as report:
        found = replay(run, report)
    if settings.as_json:
        settings.print_json({"same": not found, "differences": found})
    else:
        click.echo("\n".join(found) if found else f"{run} came out the same, bit for bit.")
    if found:
        raise click.exceptions.Exit(1)
