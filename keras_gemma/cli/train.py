"""`keras-gemma train RECIPE`: run a training recipe, or go on with a run."""

import contextlib
import difflib
import json
import time
from collections.abc import Collection
from pathlib import Path

import click

from keras_gemma.cli.common import common, show_code

EPILOG = """\
\b
Examples:
  keras-gemma train gemma_tiny_en --out runs/tiny
  keras-gemma train --resume runs/tiny
  keras-gemma train my_recipe.json --data my.jsonl --set optimizer.learning_rate=1e-4
"""
# Seconds between two lines of progress where no terminal shows a bar.
_PERIOD = 10


@click.command(short_help="Run a training recipe.", epilog=EPILOG)
@click.argument("recipe", required=False)
@click.option("--data", metavar="FILE", help="Texts, pairs or conversations to train on.")
@click.option("--skip-bad", is_flag=True, help="Leave out rows of it that are wrong; count them.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [runs/RECIPE]")
@click.option("--resume", "run", type=click.Path(path_type=Path), help="Go on with that run.")
@click.option("--show-code", "code_only", is_flag=True, help="Print the Python that does this.")
@common()
def command(settings, recipe, data, skip_bad, changes, out, run, code_only):
    """Train a model as RECIPE says: a name in presets/recipes, or a JSON file.

    What was trained lies in OUT then, with the run's log and checkpoints. KEY may reach into the
    recipe: optimizer.learning_rate. Ctrl-C ends the step and saves it; --resume OUT goes on.
    """
    if (recipe is None) == (run is None):
        raise click.UsageError("Give a RECIPE, or --resume and the folder of a run.")
    if run and (data or skip_bad or changes or out or settings.seed is not None):
        raise click.UsageError(
            "A run is resumed as it began: --resume takes its recipe and folder."
        )
    if run:
        content, out = _recipe_of(run), run
    else:
        content, out = (
            _recipe(settings, recipe, data, skip_bad, changes),
            out or Path("runs") / Path(recipe).stem,
        )
    resume = run is not None
    if code_only:
        return show_code(settings, _code(content, out, resume))
    with settings.status("starting the backend"):
        settings.start_backend()
        from keras_gemma.training.recipe import run as run_recipe
    try:
        with progress(settings) as report:
            measured = run_recipe(content, out, resume, report)
    except (KeyboardInterrupt, SystemExit):
        settings.note(f"\nStopped. To go on: keras-gemma train --resume {out}")
        raise
    if settings.as_json:
        return settings.print_json({"out": str(out), **(measured or {})})
    if measured.get("rows_skipped"):
        click.echo(
            f"Rows of the data that were wrong and were left out: {measured['rows_skipped']:,}."
        )
    click.echo(f"What was trained lies in {out}.")


def _recipe(settings, name, data, skip_bad, changes):
    from keras_gemma.presets import registry
    from keras_gemma.training.recipe_file import FIELDS

    content = registry.recipe(name)
    if data is not None:
        content["data"] = str(Path(data).resolve())
    if skip_bad:
        content["skip_bad"] = True
    for change in changes:
        apply_change(content, change, FIELDS if "data" in content else ())
    if content.get("skip_bad") and "data" not in content:
        raise click.UsageError("--skip-bad is for rows of a file, and this recipe has no data.")
    if settings.seed is not None:
        content["seed"] = settings.seed
    return content


def _recipe_of(run):
    """Without a backend, which takes its time to start."""
    from keras_gemma.training.recipe_file import recipe_of

    return recipe_of(run)


def apply_change(recipe: dict, change: str, may_have: Collection[str] = ()) -> None:
    """Set one value of a recipe; the key must be there already, or be one that it may have.

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
    for depth, name in enumerate([] if key in may_have else [*path, last]):
        if not isinstance(place, dict) or name not in place:
            known = [*place, *(() if depth else may_have)] if isinstance(place, dict) else []
            near = difflib.get_close_matches(name, known, 1)
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
        BarColumn(bar_width=20),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, told="")

        def report(now):
            if "loss" in now:
                bar.update(task, completed=now["step"], total=now["steps"], told=_told(now))
            else:
                bar.console.print(_told(now))

        yield report


def _line_printer(settings):
    last = -_PERIOD

    def report(now):
        nonlocal last
        if "loss" in now:
            if time.monotonic() - last < _PERIOD and now["step"] != now["steps"]:
                return
            last = time.monotonic()
        settings.note(f"step {now['step']}/{now['steps'] or '?'}  {_told(now)}")

    return report


def _told(now):
    """What people are shown of a line of the log.

    >>> _told({"loss": 1.25, "perplexity": 3.49, "tokens_per_second": 5e3, "memory": 2.5e9})
    'loss 1.250 (perplexity 3.5)  5,000 tokens/s  2.5 GB'
    """
    if "loss" not in now:  # of an epoch: what was held out
        named = {name: value for name, value in now.items() if name.startswith("val_")}
        return "  ".join(f"{name} {value:.3f}" for name, value in named.items())
    parts = [f"loss {now['loss']:.3f}"]
    if "perplexity" in now:
        parts[0] += f" (perplexity {now['perplexity']:.1f})"
    if "tokens_per_second" in now:
        parts.append(f"{now['tokens_per_second']:,.0f} tokens/s")
    if "flops_share" in now:
        share, peak = now["flops_share"], now["peak_flops"]
        parts.append(f"{share:.0%} of the {peak / 1e9:,.0f} GFLOP/s of products")
    if "memory" in now:
        parts.append(f"{now['memory'] / 1e9:.1f} GB")
    return "  ".join(parts)


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
