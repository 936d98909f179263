"""One run in a folder at a time."""

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from keras_gemma.presets.file_lock import take


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder. The system frees it should this process die, and the next run says so.

    Raises:
        ValueError: another run holds it; which, where and since when is told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with path.open("a+", encoding="utf-8") as file:
        file.seek(0)
        held = file.read()
        if not take(file.fileno()):
            raise ValueError(
                f"Another run works in {folder}: {_named(held)}. Wait for its end, or choose "
                "another folder."
            )
        if held:
            warnings.warn(
                f"The run before in {folder} ended without a word: {_named(held)}. Its lock is "
                "broken; what it saved is used.",
                stacklevel=2,
            )
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        _write(file, json.dumps(holder))
        try:
            yield
        finally:
            _write(file, "")


def _named(held):
    try:
        holder = json.loads(held)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that left no name"


def _write(file, text):
    file.truncate(0)
    file.write(text)
    file.flush()
