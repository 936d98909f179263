"""`keras-gemma train RECIPE`: run a training recipe."""

import contextlib
import difflib
import json
import time
from pathlib import Path

import click

from keras_gemma.cli.common import common, show_code

EPILOG = """\
\b
Examples:
  keras-gemma train gemma_tiny_en --out runs/tiny
  keras-gemma train gemma_tiny_en --out runs/tiny --resume
  keras-gemma train my_recipe.json --set tokens=1000000 --set optimizer.learning_rate=1e-3
"""
# Seconds between two lines of progress where no terminal shows a bar.
_PERIOD = 10


@click.command(short_help="Run a training recipe.", epilog=EPILOG)
@click.argument("recipe")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option("--show-code", "code_only", is_flag=True, help="Print the Python that does this.")
@common()
def command(settings, recipe, changes, out, resume, code_only):
    """Train a model as RECIPE says: a name in presets/recipes, or a JSON file.

    The trained preset lies in OUT/preset. KEY may reach into the recipe: optimizer.learning_rate.
    """
    from keras_gemma.presets import registry

    content = registry.recipe(recipe)
    for change in changes:
        apply_change(content, change)
    if settings.seed is not None:
        content["seed"] = settings.seed
    out = out or Path("runs") / Path(recipe).stem
    if code_only:
        return show_code(settings, _code(content, out, resume))
    with settings.status("starting the backend"):
        settings.start_backend()
        from keras_gemma.training.recipe import run
    try:
        with progress(settings) as report:
            measured = run(content, out, resume, report)
    except KeyboardInterrupt:
        settings.note(f"\nStopped. --resume goes on from the last checkpoint in {out}.")
        raise
    if settings.as_json:
        return settings.print_json({"out": str(out), **(measured or {})})
    click.echo(f"The preset lies in {out / 'preset'}.")


def apply_change(recipe: dict, change: str) -> None:
    """Set one value of a recipe; the key must be there already.

    >>> recipe = {"tokens": 5, "optimizer": {"learning_rate": 0.1}}
    >>> apply_change(recipe, "optimizer.learning_rate=3e-3")
    >>> recipe["optimizer"]
    {'learning_rate': 0.003}
    """
    key, equals, text = change.partition("=")
    if not equals:
        raise click.UsageError(f"--set {change!r} must be KEY=VALUE.")
    *path, last = key.split(".")
    place = recipe
    for depth, name in enumerate([*path, last]):
        if not isinstance(place, dict) or name not in place:
            near = difflib.get_close_matches(name, place, 1) if isinstance(place, dict) else []
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"The recipe has no {key!r}.{hint}")
        if depth < len(path):
            place = place[name]
    try:
        place[last] = json.loads(text)
    except ValueError:
        place[last] = text


@contextlib.contextmanager
def progress(settings):
    """A function to report steps to: a bar in a terminal, else a line every ten seconds."""
    if not settings.is_terminal:
        yield _line_printer(settings)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, loss=float("nan"), rate=0)

        def report(now):
            rate = now["tokens_per_second"]
            step, steps = now["step"], now["steps"]
            bar.update(task, completed=step, total=steps, loss=now["loss"], rate=rate)

        yield report


def _line_printer(settings):
    last = -_PERIOD

    def report(now):
        nonlocal last
        if time.monotonic() - last < _PERIOD and now["step"] < now["steps"]:
            return
        last = time.monotonic()
        settings.note(
            f"step {now['step']}/{now['steps']}  loss {now['loss']:.3f}  "
            f"{now['tokens_per_second']:,.0f} tokens/s"
        )

    return report


def _code(content, out, resume):
    return [
        "import json",
        "from pathlib import Path",
        "",
        "from keras_gemma.training.recipe import run",
        "",
        f"recipe = json.loads({json.dumps(content)!r})",
        f"run(recipe, Path({str(out)!r}), resume={resume})",
    ]
