"""Reads what a person types: one line, or many."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

QUOTES = '"""'


def history_file() -> Path:
    """Where lines typed in a chat are kept for the next one."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "keras-gemma" / "chat_history"


@contextlib.contextmanager
def history():
    """Arrow keys and history while it lasts, where Python has readline."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    path = history_file()
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # what people ask is theirs
            readline.write_history_file(path)


def read_message(read: Callable[[str], str] = input, prompt: str = "> ", more: str = ". ") -> str:
    r"""One message: a line; lines joined where each but the last ends in a backslash; or all
    between triple quotes.

    Raises:
        EOFError: there is nothing more to read.

    >>> lines = iter(["def f():\\", "    pass"])
    >>> read_message(lambda prompt: next(lines))
    'def f():\n    pass'
    """
    line = read(prompt)
    if line.lstrip().startswith(QUOTES):
        return _quoted(read, line.lstrip().removeprefix(QUOTES), more)
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(read(more))
    return "\n".join(lines)


def _quoted(read, line, more):
    lines = []
    while QUOTES not in line:
        lines.append(line)
        line = read(more)
    lines.append(line.partition(QUOTES)[0])
    return "\n".join(lines).strip("\n")
