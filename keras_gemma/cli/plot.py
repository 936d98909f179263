"""`keras-gemma plot RUN`: the curves of a run."""

from pathlib import Path

import click

from keras_gemma.cli.common import common
from keras_gemma.cli.curves import curve

EPILOG = """\
\b
Examples:
  keras-gemma plot runs/a
  keras-gemma plot runs/a --png loss.png
  keras-gemma plot runs/a --what tokens_per_second
"""


@click.command(short_help="Show the curves of a run.", epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--what", default="loss", show_default=True, help="A number of the run's log.")
@click.option("--png", type=click.Path(path_type=Path), help="Write a picture, by matplotlib.")
@common(seed=False)
def command(settings, run, what, png):
    """Draw numbers of RUN/log.jsonl over the steps: here, or as a picture.

    With loss and perplexity, what was held out is drawn too, where there is some.
    """
    from keras_gemma.training import run_log

    records = run_log.read(run)
    lines = {name: _series(records, name) for name in (what, f"val_{what}")}
    lines = {name: line for name, line in lines.items() if line[0]}
    if not lines:
        known = sorted({key for record in records for key in record} - {"step", "steps"})
        raise click.UsageError(f"The log has no {what!r}. It has {', '.join(known) or 'nothing'}.")
    if settings.as_json:
        return settings.print_json(
            {n: [list(pair) for pair in zip(*line)] for n, line in lines.items()}
        )
    if png:
        _picture(lines, png)
        return click.echo(f"{png} shows {' and '.join(lines)}.")
    for name, (steps, values) in lines.items():
        click.echo(f"{name}: {values[-1]:.4g} at step {steps[-1]}")
        click.echo("\n".join(curve(steps, values)))


def _series(records, name):
    found = [(record["step"], record[name]) for record in records if _is_number(record.get(name))]
    return [list(part) for part in zip(*found)] or [[], []]


def _is_number(value):
    return isinstance(value, (int, float)) and abs(value) < float("inf")


def _picture(lines, path):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'A picture needs matplotlib: pip install "keras-gemma[plot]". Without --png the curve '
            "is drawn here."
        ) from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step")
    for name, (steps, values) in lines.items():
        axes.plot(steps, values, label=name, marker="." if len(steps) < 50 else None)
    axes.legend()
    figure.savefig(path)
