"""How far files are that are being fetched: bars on a terminal, else a line for each."""

import contextlib
import os
import sys

from keras_gemma.presets.sizes import megabytes


@contextlib.contextmanager
def progress_bars(settings):
    """Something to tell the progress of files to: bars on a terminal, else a line for each file."""
    if not settings.is_terminal:
        yield Lines(settings)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # A handle of its own: the hubs' clients are kept from writing to the usual one meanwhile.
    with (
        os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding) as file,
        Progress(*columns, console=Console(file=file, force_terminal=True)) as progress,
    ):
        yield Bars(progress)


class Bars:
    """A bar for each file."""

    def __init__(self, progress):
        self.progress, self.tasks = progress, {}

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done, total=total)


class Lines:
    """A line for each file that came."""

    def __init__(self, settings):
        self.settings = settings

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if done == total:
            self.settings.note(f"{name}  {megabytes(done)}")
