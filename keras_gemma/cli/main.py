"""The list of verbs, and what becomes of their errors."""

import difflib
import errno
import importlib
import io
import sys

import click

from keras_gemma.out_of_memory import OutOfMemoryError, is_out_of_memory
from keras_gemma.presets.errors import BadPresetError, NoSpaceError, PresetAccessError
from keras_gemma.version import __version__

VERBS = (
    "generate",
    "chat",
    "train",
    "plot",
    "replay",
    "presets",
    "info",
    "bench",
    "convert",
    "download",
)

# Exit codes beside 0 (done), 1 (failed) and 2 (the command was not understood).
ACCESS, CORRUPT, FULL, INTERRUPTED = 3, 4, 5, 130

EPILOG = """\
\b
Examples:
  keras-gemma generate "Once upon a time"
  keras-gemma chat

\b
The backend is --backend, else KERAS_BACKEND, else Keras's keras.json, else the first of JAX,
PyTorch and TensorFlow that is installed. Exit codes: 0 done, 1 failed, 2 not understood, 3 no
access, 4 a file is damaged, 5 no room on the disk or in memory, 130 interrupted.
"""


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Failed(click.ClickException):
    """One clear message on stderr, and an exit code."""


class NoAccess(Failed):
    exit_code = ACCESS


class Damaged(Failed):
    exit_code = CORRUPT


class NoRoom(Failed):
    exit_code = FULL


class Verbs(click.Group):
    """A verb's file is imported when it is asked for, and turns no error into a traceback."""

    def list_commands(self, ctx) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx, cmd_name):
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"keras_gemma.cli.{cmd_name}").command

    def resolve_command(self, ctx, args):
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"There is no verb {args[0]!r}.{hint} Verbs: {', '.join(VERBS)}.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as error:
            if getattr(ctx.obj, "debug", False) or getattr(error, "errno", 0) == errno.EPIPE:
                raise
            raise _kind(error)(_message(error)) from error


def _kind(error):
    if isinstance(error, PresetAccessError):
        return NoAccess
    if isinstance(error, NoSpaceError) or _is_full(error) or is_out_of_memory(error):
        return NoRoom
    return Damaged if isinstance(error, BadPresetError) else Failed


def _is_full(error):
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _message(error):
    if _is_full(error):
        where = f" of {error.filename}" if error.filename else ""
        return f"The disk{where} is full. Make room, or write to another one."
    # These are written for people, in the library and in Python; others are not.
    if isinstance(error, (ValueError, OSError, ImportError, OutOfMemoryError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


@click.command(cls=Verbs, epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="keras-gemma")
def verbs():
    """Gemma in Keras: generate, chat, train, on JAX, PyTorch or TensorFlow."""


def main() -> None:
    """What the command `keras-gemma` calls."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of few letters shows ? for others
    verbs(prog_name="keras-gemma")


if __name__ == "__main__":
    main()
