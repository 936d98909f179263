"""What the verbs share: their common options, a backend without noise, a spinner, clean text."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from keras_gemma.backend import BACKENDS, choose_backend
from keras_gemma.cli.progress import progress_bars

# Terminals act on these: C0 but for tab and newline, DEL, and C1.
_CONTROL_CODES = {code: None for code in [*range(32), *range(127, 160)] if chr(code) not in "\t\n"}


@dataclasses.dataclass
class Settings:
    """The common options of one run."""

    backend: str | None
    seed: int | None
    as_json: bool
    quiet: bool
    debug: bool

    def start_backend(self) -> str:
        """Choose the backend and keep what it has to say to itself; returns its name."""
        name = choose_backend(self.backend)
        with contextlib.nullcontext() if self.debug else _silence():
            import keras

            keras.ops.zeros(())  # devices are looked for at the first number
        return name

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches stderr."""
        return sys.stderr.isatty() and not (self.quiet or self.as_json)

    @contextlib.contextmanager
    def status(self, text: str) -> Iterator[Callable[[str], Any]]:
        """A spinner on stderr while something takes its time; call it to change the text."""
        if not self.is_terminal:
            yield lambda text: None
            return
        from rich.console import Console

        # A handle of its own: the spinner goes on while `_silence` holds the usual one.
        with (
            os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding) as file,
            Console(file=file, force_terminal=True).status(text) as status,
        ):
            yield status.update

    def note(self, text: str) -> None:
        """A line on stderr, for people."""
        if not (self.quiet or self.as_json):
            click.secho(text, err=True, dim=True)

    def print_json(self, value: Any) -> None:
        """The result for programs: one JSON document on stdout."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def common(*, seed: bool = True) -> Callable:
    """Give a verb the common options; it gets `Settings` as its first argument."""

    def decorate(verb):
        @functools.wraps(verb)
        @click.pass_context
        def start(ctx, /, backend, as_json, quiet, debug, seed=None, **keywords):
            settings = Settings(backend, seed, as_json, quiet, debug)
            ctx.find_root().obj = settings
            return verb(settings, **keywords)

        options = [
            click.option("--backend", type=click.Choice(BACKENDS), help="What Keras runs on."),
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
            click.option("--quiet", is_flag=True, help="No progress and no notes."),
            click.option("--debug", is_flag=True, help="Show tracebacks and others' warnings."),
        ]
        if seed:
            options.insert(1, click.option("--seed", type=int, help="Repeats what is random."))
        for option in reversed(options):
            start = option(start)
        return start

    return decorate


@contextlib.contextmanager
def _silence():
    """Other people's warnings are for developers; `--debug` leaves them on.

    TensorFlow 2.21 writes some lines to the file of stderr, past Python and past
    `TF_CPP_MIN_LOG_LEVEL`, while it is imported: that file leads nowhere for so long.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module="keras_gemma")
    for name in ("jax", "absl", "tensorflow", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def printable(text: str) -> str:
    r"""Text without the codes that a terminal would act on instead of showing.

    >>> printable("red \x1b[31m\rend\n")
    'red [31mend\n'
    """
    return text.translate(_CONTROL_CODES)


def shown(text: str) -> str:
    """Text for stdout: as it is for a file or a pipe, harmless for a terminal."""
    return printable(text) if sys.stdout.isatty() else text


def complete_preset(ctx, parameter, incomplete):
    """Names of presets, for the completion of the shell."""
    from keras_gemma.presets import registry

    return [name for name in registry.names() if name.startswith(incomplete)]


def load_model(settings: Settings, preset: str, **keywords: Any) -> Any:
    """The language model of a preset, of the class that its files name.

    Keywords are those of `from_preset`.
    """
    from keras_gemma.presets import registry

    # Unknown or without access: told before a backend takes its time to start.
    with progress_bars(settings) as progress:
        registry.folder(preset, progress=progress, say=settings.note)
    settings.start_backend()
    from keras_gemma import models

    return getattr(models, model_class(preset)).from_preset(preset, **keywords)


def model_class(preset: str) -> str:
    """`GemmaCausalLM`, or `Gemma3CausalLM` for a Gemma 3."""
    from keras_gemma.conversion.description import describe

    return describe(preset)["backbone"].replace("Backbone", "CausalLM")


def show_code(settings: Settings, lines: list[str]) -> None:
    """Print the Python that does the same."""
    head = []
    if settings.backend:
        head = ["import os", "", f'os.environ["KERAS_BACKEND"] = "{settings.backend}"', ""]
    click.echo("\n".join([*head, "import keras_gemma", "", *lines]))
